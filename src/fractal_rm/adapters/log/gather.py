"""Gathers calls of the journal into groups: waits for a first call, and then briefly for more."""

from __future__ import annotations

import asyncio

from fractal_rm.adapters.log.group import Group

# A sync costs more than most runs, so several calls share a sync. If a group begins less than
# GATHER_S after the last group ended, it waits GATHER_S for more calls. If it has fewer than
# FEW_CALLS calls then, it waits GATHER_S once more. But if it still has only one call, it ends, and
# the next NO_WAIT_GROUPS groups do not wait: the client probably sends one trigger after the other.
GATHER_S = 0.004
FEW_CALLS = 4
NO_WAIT_GROUPS = 20


class Gatherer:
    """Collects calls of the journal. Whoever adds a call to `group` then calls `wake`.

    `next_group` returns the group, and begins a new one.
    """

    def __init__(self) -> None:
        self.group = Group()
        self._wake = asyncio.Event()
        self._closing = False
        self._ended_s = 0.0  # when the last group ended
        self._no_wait_groups = 0  # how many of the next groups do not wait for more calls
        self._loop: asyncio.AbstractEventLoop

    def begin(self) -> None:
        """Use the running event loop."""
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Let `next_group` return, even if the group is empty."""
        self._wake.set()

    def end(self) -> None:
        """Let `next_group` return without waiting from now on."""
        self._closing = True
        self._wake.set()

    async def next_group(self) -> Group:
        """Wait for `wake`, and perhaps for more calls. Returns the calls so far."""
        await self._wake.wait()
        is_soon = self._loop.time() - self._ended_s < GATHER_S
        if is_soon and self._no_wait_groups:
            self._no_wait_groups -= 1
        elif is_soon:
            await asyncio.sleep(GATHER_S)
            if len(self.group) < 2:
                self._no_wait_groups = NO_WAIT_GROUPS
            elif len(self.group) < FEW_CALLS:
                await asyncio.sleep(GATHER_S)
        if not self._closing:
            self._wake.clear()
        return self.take()

    def take(self) -> Group:
        """Return the calls so far, and begin a new group."""
        group, self.group = self.group, Group()
        return group

    def group_ended(self) -> None:
        """Record that the calls of a group were answered now."""
        self._ended_s = self._loop.time()
