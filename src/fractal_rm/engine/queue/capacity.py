"""Limits on unfinished runs, by number and by bytes. Triggers over a limit are refused."""

from __future__ import annotations

import asyncio

from fractal_rm.domain.admission import Limits, Load, check_room

RECHECK_S = 1.0


class Capacity:
    """Counts the waiting runs and the payload bytes: `Load.waiting` and `Load.payload_bytes`.

    Room is reserved before a trigger is written, so that the journal is bounded too. `Slots` also
    changes these counts, when a run takes or leaves a slot.
    """

    def __init__(self, load: Load, limits: Limits) -> None:
        self.load = load
        self.limits = limits
        # One for each refused sender that waits for room, in order of arrival.
        self._waiters: dict[asyncio.Future[None], None] = {}

    def reserve(self, size: int) -> None:
        """Reserve room for one trigger of ``size`` bytes. Raises Busy if there is no room."""
        load = self.load
        check_room(load, self.limits, size)
        load.waiting += 1
        load.payload_bytes += size

    def add(self, size: int) -> None:
        """Count a waiting run of ``size`` bytes, even over a limit: it was accepted before."""
        self.load.waiting += 1
        self.load.payload_bytes += size

    def release(self, size: int) -> None:
        """Remove a waiting run of ``size`` bytes from the counts."""
        self.load.waiting -= 1
        self.load.payload_bytes -= size
        self.notify()

    async def wait_for_room(self) -> None:
        """Return when room may be free, at the latest after RECHECK_S. First come, first served.

        The wait is limited, because `notify` is not always called when there is room: for example,
        if triggers were refused because of a full disk.
        """
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters[waiter] = None
        try:
            await asyncio.wait((waiter,), timeout=RECHECK_S)
        finally:
            self._waiters.pop(waiter, None)

    @property
    def waiting_senders(self) -> int:
        """The number of senders that wait for room."""
        return len(self._waiters)

    def notify(self) -> None:
        """Wake the sender that has waited longest for room."""
        if self._waiters:
            waiter = next(iter(self._waiters))
            del self._waiters[waiter]
            waiter.set_result(None)
