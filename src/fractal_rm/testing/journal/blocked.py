"""Tests: what a journal does while it cannot write."""

# ruff: noqa: S101, D102 - tests, whose names are sentences
from __future__ import annotations

import asyncio

import msgspec
import pytest

from fractal_rm.domain.facts import (
    Finished,
    RequestStarted,
)
from fractal_rm.domain.journal_errors import JournalFull, JournalMoved
from fractal_rm.testing.journal.journal_tests import JournalTests
from fractal_rm.testing.journal.samples import (
    accepted,
    append_fact,
    begun,
    entry,
    write,
)


class BlockedTests(JournalTests):
    """While a journal cannot write, it refuses new runs, but keeps facts of open runs in memory."""

    async def test_a_full_disk_refuses_new_runs_and_keeps_facts_of_open_runs(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        self.fill(journal, full=True)
        big = entry("B", facts=(accepted(payload=b'"' + b"x" * 200_000 + b'"'),))
        with pytest.raises(JournalFull):
            await journal.accept(big)
        a, result = begun("A"), msgspec.Raw(b'"%b"' % (b"y" * 200_000))
        durable = asyncio.ensure_future(write(journal, a, Finished(1, 200, 0.5, result)))
        await self.wait_blocked(journal)
        assert isinstance(journal.blocked, JournalFull)
        assert not durable.done()
        append_fact(journal, a, RequestStarted(2))
        self.fill(journal, full=False)
        await durable
        assert journal.blocked is None
        assert await journal.accept(entry("C")) is None
        await journal.close(clean=True)
        recovered = await self.reopen()
        assert [(run.id, run.progress.in_doubt) for run in recovered.runs] == [
            ("A", {"2"}),
            ("C", None),
        ]
        assert [run.progress.results for run in recovered.runs] == [{1: result}, {}]

    async def test_tasks_that_wait_for_a_write_get_an_error_if_the_disk_is_full_at_the_close(
        self,
    ) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        self.fill(journal, full=True)
        result = msgspec.Raw(b'"%b"' % (b"y" * 200_000))
        durable = asyncio.ensure_future(write(journal, begun("A"), Finished(1, 200, 0.5, result)))
        await self.wait_blocked(journal)
        assert isinstance(journal.blocked, JournalFull)
        await journal.close(clean=True)
        with pytest.raises(JournalFull):
            await durable
        self.fill(journal, full=False)
        recovered = await self.reopen()
        assert ([run.progress.results for run in recovered.runs], recovered.clean) == ([{}], False)

    async def test_close_writes_the_waiting_facts_if_the_disk_has_room_again(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        self.fill(journal, full=True)
        result = msgspec.Raw(b'"%b"' % (b"y" * 200_000))
        append_fact(journal, begun("A"), Finished(1, 200, 0.5, result))
        await self.wait_blocked(journal)
        assert isinstance(journal.blocked, JournalFull)
        self.fill(journal, full=False)
        await journal.close(clean=True)
        recovered = await self.reopen()
        assert ([run.progress.results for run in recovered.runs], recovered.clean) == (
            [{1: result}],
            True,
        )

    async def test_a_moved_journal_refuses_new_runs_until_it_is_back(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        self.move(journal, away=True)
        with pytest.raises(JournalMoved):
            await journal.accept(entry("B"))
        assert isinstance(journal.blocked, JournalMoved)
        a, result = begun("A"), msgspec.Raw(b'"r"')
        durable = asyncio.ensure_future(write(journal, a, Finished(1, 200, 0.5, result)))
        with pytest.raises(JournalMoved):
            await journal.accept(entry("C"))
        assert not durable.done()
        self.move(journal, away=False)
        await durable
        assert await journal.accept(entry("D")) is None
        self.crash(journal)
        recovered = await self.reopen()
        assert [(run.id, run.progress.results) for run in recovered.runs] == [
            ("A", {1: result}),
            ("D", {}),
        ]

    async def test_a_check_notices_a_moved_journal_before_a_write(self) -> None:
        journal = self.new()
        await journal.open()
        self.move(journal, away=True)
        journal.check()
        assert isinstance(journal.blocked, JournalMoved)
        self.move(journal, away=False)
        await journal.close(clean=True)
