"""The base of the suite: how a journal is made, and what is done to it."""

from __future__ import annotations

import asyncio

from fractal_rm.engine.ports import Journal, Recovered


class JournalTests:
    """Override the methods that raise NotImplementedError."""

    def new(self) -> Journal:
        """Make a journal. All of one test have the same place."""
        raise NotImplementedError

    def beside(self) -> Journal:
        """Make another journal of the same node."""
        raise NotImplementedError

    def crash(self, journal: Journal) -> None:
        """End it as kill -9 does."""
        raise NotImplementedError

    def fill(self, journal: Journal, *, full: bool) -> None:
        """Fill its disk, or make room again."""
        raise NotImplementedError

    def move(self, journal: Journal, *, away: bool) -> None:
        """Move its files to another place, or back, while they are open."""
        raise NotImplementedError

    async def reopen(self) -> Recovered:
        """Open a new journal, close it, and return what it found."""
        journal = self.new()
        found = await journal.open()
        await journal.close(clean=True)
        return found

    async def wait_blocked(self, journal: Journal) -> None:
        """Wait until it has noticed that it cannot write."""
        while journal.blocked is None:  # noqa: ASYNC110 - no journal has an event for it
            await asyncio.sleep(0)
