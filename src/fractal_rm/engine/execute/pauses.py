"""Pauses of runs in flight: between two attempts, and in a short WAIT. They can be ended early."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Generator
from contextlib import contextmanager

from fractal_rm.domain.run import Run
from fractal_rm.engine.timers import Timers


class RunCancelled(Exception):
    """An operator has cancelled the run, so its next request is not sent."""


class Pauses:
    """Lets runs pause, and ends the pauses of a run that is cancelled."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._ends: dict[str, list[Callable[[], None]]] = {}  # by run id

    async def pause(self, run: Run, left_ms: float, *, for_undo: bool = False) -> None:
        """Return after ``left_ms`` on the steady clock.

        Raises RunCancelled if the run is cancelled before, unless the pause is one of an UNDO.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

        def end() -> None:
            if not ended.done():
                ended.set_result(None)

        timer = self._timers.set(left_ms, end)
        try:
            with self.ended_by(run, end):
                await ended
        finally:
            timer.cancel()
        if run.cancel is not None and not for_undo:
            raise RunCancelled

    @contextmanager
    def ended_by(self, run: Run, end: Callable[[], None]) -> Generator[None, None, None]:
        """During a ``with`` block, call ``end`` if the run is cancelled."""
        ends = self._ends.setdefault(run.id, [])
        ends.append(end)
        try:
            yield
        finally:
            ends.remove(end)
            if not ends:
                del self._ends[run.id]

    def end(self, run: Run) -> None:
        """End the pauses of a run now."""
        for end in tuple(self._ends.get(run.id, ())):
            end()
