"""Asks the processes of a state folder what they do now."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path

from fractal_rm.adapters.local_socket.client import NoAnswer, NoProcess, NotAnswered, ask
from fractal_rm.adapters.local_socket.messages import AskStatus, StatusIs
from fractal_rm.domain.node_status import NodeStatus

LIMIT_S = 3.0


async def statuses_of(sockets: Sequence[Path]) -> list[NodeStatus]:
    """The status of each process that answers within `LIMIT_S`."""
    answers = await asyncio.gather(*map(_status_of, sockets))
    return [answer for answer in answers if answer is not None]


async def _status_of(path: Path) -> NodeStatus | None:
    try:
        return (await ask(path, AskStatus(), StatusIs, LIMIT_S)).status
    except (NoProcess, NoAnswer, NotAnswered):
        return None
