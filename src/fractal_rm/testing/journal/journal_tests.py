"""The methods that a journal must define to run the suite."""

from __future__ import annotations

import asyncio

from fractal_rm.engine.ports import Journal, Recovered


class JournalTests:
    """Tests of a journal. Subclasses override the methods that raise NotImplementedError."""

    def new(self) -> Journal:
        """Make a journal. All journals that this method makes in a test have the same files."""
        raise NotImplementedError

    def new_other(self) -> Journal:
        """Make a journal with another name in the same state folder."""
        raise NotImplementedError

    def crash(self, journal: Journal) -> None:
        """End a journal without closing it, as kill -9 ends a process."""
        raise NotImplementedError

    def fill(self, journal: Journal, *, full: bool) -> None:
        """Fill the disk of a journal if ``full``, otherwise make room on it again."""
        raise NotImplementedError

    def move(self, journal: Journal, *, away: bool) -> None:
        """Move the files of an open journal to another place if ``away``, otherwise back."""
        raise NotImplementedError

    async def reopen(self) -> Recovered:
        """Make a journal, open it, close it, and return the result of its `open`."""
        journal = self.new()
        recovered = await journal.open()
        await journal.close(clean=True)
        return recovered

    async def wait_blocked(self, journal: Journal) -> None:
        """Wait until a journal has noticed that it cannot write."""
        while journal.blocked is None:  # noqa: ASYNC110 - no journal has an event for it
            await asyncio.sleep(0)
