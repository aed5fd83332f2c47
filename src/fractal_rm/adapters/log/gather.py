"""Gathers a group: waits for a first call, and then a little for more."""

from __future__ import annotations

import asyncio

from fractal_rm.adapters.log.group import Group

# A sync costs more than most runs do. So a group that begins within this time after the one before
# waits this long for more calls, and once more if only a few came. If none came, as with a client
# that sends one trigger after the other, the next groups do not wait.
GATHER_S = 0.004
FEW_WAITERS = 4
NO_WAIT_GROUPS = 20


class Gatherer:
    """Add calls to `group`, then call `wake`. `next_group` returns it and begins a new one."""

    def __init__(self) -> None:
        self.group = Group()
        self._wake = asyncio.Event()
        self._closing = False
        self._ended_s = 0.0  # when the last group ended
        self._no_wait_groups = 0  # so many groups do not wait for more calls
        self._loop: asyncio.AbstractEventLoop

    def begin(self) -> None:
        """Use the running event loop."""
        self._loop = asyncio.get_running_loop()

    def wake(self) -> None:
        """Begin the next group, even if it is empty."""
        self._wake.set()

    def end(self) -> None:
        """Return groups at once from now on."""
        self._closing = True
        self._wake.set()

    async def next_group(self) -> Group:
        """Wait until there is something to do, and return the calls so far."""
        await self._wake.wait()
        is_soon = self._loop.time() - self._ended_s < GATHER_S
        if is_soon and self._no_wait_groups:
            self._no_wait_groups -= 1
        elif is_soon:
            await asyncio.sleep(GATHER_S)
            if len(self.group) < 2:
                self._no_wait_groups = NO_WAIT_GROUPS
            elif len(self.group) < FEW_WAITERS:
                await asyncio.sleep(GATHER_S)
        if not self._closing:
            self._wake.clear()
        return self.take()

    def take(self) -> Group:
        """The calls so far; later ones are in the next group."""
        group, self.group = self.group, Group()
        return group

    def group_ended(self) -> None:
        """The calls of a group were answered."""
        self._ended_s = self._loop.time()
