"""Tests: a journal searches the other journals of its state folder, and adopts their runs."""

# ruff: noqa: S101, D102 - tests, whose names are sentences
from __future__ import annotations

from fractal_rm.domain.facts import (
    Finished,
    RequestStarted,
    Settled,
)
from fractal_rm.domain.result import NULL
from fractal_rm.domain.state import State
from fractal_rm.testing.journal.journal_tests import JournalTests
from fractal_rm.testing.journal.samples import (
    begun,
    entry,
    write,
)


class AdoptionTests(JournalTests):
    """Each open run of a state folder is in exactly one of its journals."""

    async def test_open_runs_of_a_free_journal_are_moved(self) -> None:
        other = self.new_other()
        await other.open()
        for name in ("A", "B", "C"):
            await other.accept(entry(name, key=f"key of {name}"))
        a = begun("A")
        await write(other, a, Finished(1, 200, 0.5, NULL, data=b"\xff"))
        await write(other, begun("B"), Settled(State.SUCCEEDED))
        self.crash(other)
        journal = self.new()
        assert (await journal.open()).runs == []
        (adopted,) = await journal.adopt()
        assert [run.id for run in adopted.moved.runs] == ["A", "C"]
        assert (adopted.moved.runs[0], adopted.moved.clean, adopted.remaining) == (a, False, [])
        assert await journal.adopt() == []
        await write(journal, a, RequestStarted(2))
        self.crash(journal)
        journal = self.new()
        assert [run.id for run in (await journal.open()).runs] == ["A", "C"]
        for name, state in (("A", State.RUNNING), ("B", State.SUCCEEDED), ("C", State.ACCEPTED)):
            prior = await journal.accept(entry("new", key=f"key of {name}"))
            assert prior is not None
            assert (prior.run_id, prior.state) == (name, state)
        await journal.close(clean=True)
        other = self.new_other()
        assert (await other.open()).runs == []
        await other.close(clean=True)

    async def test_a_journal_in_use_is_searched_but_not_adopted(self) -> None:
        in_use = self.new_other()
        await in_use.open()
        await in_use.accept(entry("A", key="k", digest="x"))
        journal = self.new()
        await journal.open()
        assert await journal.adopt() == []
        prior = await journal.find("k", 1_000)
        assert prior is not None
        assert (prior.run_id, prior.digest) == ("A", "x")
        for duplicate in (entry("B", key="k"), entry("A", key="other")):
            prior = await journal.accept(duplicate)
            assert prior is not None
            assert prior.run_id == "A"
        await in_use.close(clean=True)
        (adopted,) = await journal.adopt()
        assert ([run.id for run in adopted.moved.runs], adopted.moved.clean) == (["A"], True)
        await journal.close(clean=True)
