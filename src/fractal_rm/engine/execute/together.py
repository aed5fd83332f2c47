"""Concurrent steps of one run: how their tasks are cancelled, and which ending counts."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from fractal_rm.domain.facts import Settled
from fractal_rm.domain.state import State


async def cancel_all(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has ended. Their exceptions are ignored."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def worst_ending(endings: Sequence[Settled]) -> Settled:
    """The end of a run that several steps end: an unknown one if there is any, else the first."""
    unknown = [ending for ending in endings if ending.state is State.UNKNOWN]
    return (unknown or endings)[0]
