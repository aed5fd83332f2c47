"""Tests: duplicates of triggers are found by their keys."""

# ruff: noqa: S101, D102 - tests, whose names are sentences
from __future__ import annotations

import asyncio

from fractal_rm.domain.facts import (
    Settled,
)
from fractal_rm.domain.state import State
from fractal_rm.testing.journal.journal_tests import JournalTests
from fractal_rm.testing.journal.samples import (
    begun,
    entry,
    write,
)


class DuplicateTests(JournalTests):
    """A key that has not expired belongs to exactly one run."""

    async def test_a_known_key_returns_the_existing_run(self) -> None:
        journal = self.new()
        await journal.open()
        assert await journal.accept(entry("A", key="k", digest="x")) is None
        prior = await journal.accept(entry("B", key="k", digest="y"))
        assert prior is not None
        assert (prior.run_id, prior.digest, prior.state) == ("A", "x", State.ACCEPTED)
        assert await journal.find("k", 1_000) == prior
        assert await journal.find("other", 1_000) is None
        await journal.close(clean=True)

    async def test_only_one_of_simultaneous_duplicates_becomes_a_run(self) -> None:
        journal = self.new()
        await journal.open()
        answers = await asyncio.gather(*(journal.accept(entry(c, key="k")) for c in "ABCDEFGH"))
        assert answers.count(None) == 1
        await journal.close(clean=True)
        assert len((await self.reopen()).runs) == 1

    async def test_keys_are_known_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", key="k"))
        await write(journal, begun("A"), Settled(State.FAILED, "no"))
        self.crash(journal)
        journal = self.new()
        await journal.open()
        prior = await journal.accept(entry("B", key="k"))
        assert prior is not None
        assert (prior.run_id, prior.state) == ("A", State.FAILED)
        await journal.close(clean=True)

    async def test_a_key_is_found_with_the_current_state_of_its_run(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", key="k"))
        await write(journal, begun("A"), Settled(State.SUCCEEDED))
        prior = await journal.find("k", 1_000)
        assert prior is not None
        assert (prior.run_id, prior.state) == ("A", State.SUCCEEDED)
        await journal.close(clean=True)

    async def test_a_key_may_be_used_again_after_it_expired(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", key="k", window_ms=10))
        assert await journal.accept(entry("B", key="k", at_ms=1_010, window_ms=10)) is None
        prior = await journal.accept(entry("C", key="k", at_ms=1_011, window_ms=10))
        assert prior is not None
        assert prior.run_id == "B"
        await journal.close(clean=True)

    async def test_a_second_entry_with_the_same_run_id_returns_the_existing_run(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", key="k1"))
        prior = await journal.accept(entry("A", key="k2"))
        assert prior is not None
        assert prior.run_id == "A"
        await journal.close(clean=True)
