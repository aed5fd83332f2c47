"""How many runs, and bytes of payloads, may be unfinished: over a bound, triggers are refused."""

from __future__ import annotations

import asyncio

from fractal_rm.domain.admission import Limits, Load, check_room

RECHECK_S = 1.0


class Capacity:
    """Owns `Load.waiting` and `Load.payload_bytes`.

    Room is reserved before a trigger is journalled, so that what the journal holds is bounded too.
    """

    def __init__(self, load: Load, limits: Limits) -> None:
        self.load = load
        self.limits = limits
        self._refused: dict[asyncio.Future[None], None] = {}  # senders, in order of arrival

    def reserve(self, size: int) -> None:
        """Reserve room for one trigger of ``size`` bytes. Raises Busy."""
        load = self.load
        check_room(load, self.limits, size)
        load.waiting += 1
        load.payload_bytes += size

    def add(self, size: int) -> None:
        """Count a run that was accepted before: no bound refuses it now."""
        self.load.waiting += 1
        self.load.payload_bytes += size

    def release(self, size: int) -> None:
        """Count a run no longer that waited."""
        self.load.waiting -= 1
        self.load.payload_bytes -= size
        self.notify()

    def begin(self) -> None:
        """Count one run less that waits: it has a slot now."""
        self.load.waiting -= 1

    def wait_again(self) -> None:
        """Count one run more that waits: it has left its slot, for a later turn."""
        self.load.waiting += 1
        self.notify()

    def end(self, size: int) -> None:
        """Count a run no longer that was in flight."""
        self.load.payload_bytes -= size
        if self._refused:
            self.notify()

    async def wait_for_room(self) -> None:
        """Return when room may be free, first come, first served; after RECHECK_S at the latest.

        The reason for a refusal may have been another one, such as a full disk, whose end is
        not notified.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refused[waiter] = None
        try:
            await asyncio.wait((waiter,), timeout=RECHECK_S)
        finally:
            self._refused.pop(waiter, None)

    @property
    def refused(self) -> int:
        """How many senders wait for room."""
        return len(self._refused)

    def notify(self) -> None:
        """Wake the sender that has waited longest for room."""
        if self._refused:
            waiter = next(iter(self._refused))
            del self._refused[waiter]
            waiter.set_result(None)
