"""Locks by run, so that two actions on one run are done one after the other."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager

import msgspec


class _Held(msgspec.Struct):
    """A lock, and how many calls hold it or wait for it."""

    lock: asyncio.Lock
    users: int = 0


class RunLocks:
    """A lock for each run that is acted on."""

    def __init__(self) -> None:
        self._held: dict[str, _Held] = {}

    @asynccontextmanager
    async def lock(self, run_id: str) -> AsyncGenerator[None]:
        """Hold the lock of a run. Waits until no other call holds it."""
        held = self._held.setdefault(run_id, _Held(asyncio.Lock()))
        held.users += 1
        try:
            async with held.lock:
                yield
        finally:
            held.users -= 1
            if not held.users:
                del self._held[run_id]

    def __len__(self) -> int:
        """The number of runs that are acted on now."""
        return len(self._held)
