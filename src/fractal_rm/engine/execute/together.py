"""Tasks that belong to one run: where the run is cut off, so are they."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from typing import Any

from fractal_rm.domain.facts import Settled
from fractal_rm.domain.state import State


async def cut_off(tasks: Collection[asyncio.Task[Any]]) -> None:
    """Cancel tasks and wait until each has ended; what they raise is not asked for any more."""
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()


def worst(endings: Sequence[Settled]) -> Settled:
    """How a run ends where several of its steps end it: in doubt, or as the first one says."""
    unknown = [ending for ending in endings if ending.state is State.UNKNOWN]
    return (unknown or endings)[0]
