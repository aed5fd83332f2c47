"""Pauses of runs in flight: between two attempts, and in a short WAIT. They can be ended early."""

from __future__ import annotations

import asyncio

from fractal_rm.domain.run import Run
from fractal_rm.engine.timers import Timers


class RunCancelled(Exception):
    """An operator has cancelled the run, so its next request is not sent."""


class Pauses:
    """Lets runs pause, and ends the pauses of a run that is cancelled."""

    def __init__(self, timers: Timers) -> None:
        self._timers = timers
        self._pauses: dict[str, list[asyncio.Future[None]]] = {}  # by run id

    async def pause(self, run: Run, left_ms: float, *, for_undo: bool = False) -> None:
        """Return after ``left_ms`` on the steady clock.

        Raises RunCancelled if the run is cancelled before, unless the pause is one of an UNDO.
        """
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        pauses = self._pauses.setdefault(run.id, [])
        pauses.append(ended)
        timer = self._timers.set(left_ms, lambda: ended.done() or ended.set_result(None))
        try:
            await ended
        finally:
            timer.cancel()
            pauses.remove(ended)
            if not pauses:
                del self._pauses[run.id]
        if run.cancel is not None and not for_undo:
            raise RunCancelled

    def end(self, run: Run) -> None:
        """End the pauses of a run now."""
        for ended in self._pauses.get(run.id, ()):
            if not ended.done():
                ended.set_result(None)
