"""Tests: which runs and facts are in a journal after a restart."""

# ruff: noqa: S101, D102 - tests, whose names are sentences
from __future__ import annotations

import asyncio

import msgspec
import pytest

from fractal_rm.domain.facts import (
    Dead,
    Finished,
    Placed,
    RequestStarted,
    Settled,
)
from fractal_rm.domain.journal_errors import JournalInUse
from fractal_rm.domain.state import State
from fractal_rm.testing.journal.journal_tests import JournalTests
from fractal_rm.testing.journal.samples import (
    FLOW,
    OTHER_FLOW,
    accepted,
    append_fact,
    begun,
    entry,
    write,
)


class DurabilityTests(JournalTests):
    """Durable data survives a crash, and all data survives an ordered end."""

    async def test_an_accepted_run_is_found_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        assert await journal.accept(entry("A")) is None
        self.crash(journal)
        recovered = await self.reopen()
        assert [run.id for run in recovered.runs] == ["A"]
        assert recovered.runs[0].state is State.ACCEPTED
        assert bytes(recovered.runs[0].accepted.payload) == b'"p"'
        assert not recovered.clean

    async def test_newest_run_id_is_the_id_of_the_last_run_that_did_not_come_from_a_peer(
        self,
    ) -> None:
        """The id of a run from a peer was made with the clock of the peer."""
        journal = self.new()
        assert (await journal.open()).newest_run_id == ""
        await journal.accept(entry("A"))
        await journal.accept(entry("B"))
        from_peer = msgspec.structs.replace(accepted(), source="peer")
        await journal.accept(entry("C", facts=(from_peer,)))
        await journal.close(clean=True)
        assert (await self.reopen()).newest_run_id == "B"

    async def test_an_ordered_end_is_distinguished_from_a_crash(self) -> None:
        journal = self.new()
        assert (await journal.open()).clean
        await journal.close(clean=True)
        await journal.close(clean=True)
        assert (await self.reopen()).clean

    async def test_durable_facts_are_found_in_order_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        a = begun("A")
        append_fact(journal, a, Placed(None, "here"))
        append_fact(journal, a, Finished(1, 200, 0.5, msgspec.Raw(b'"r"')))
        await write(journal, a, RequestStarted(2))
        self.crash(journal)
        run = (await self.reopen()).runs[0]
        assert (run.state, run.progress.in_doubt, run.reason) == (State.RUNNING, {"2"}, "here")
        assert run.progress.results == {1: msgspec.Raw(b'"r"')}

    async def test_data_that_is_written_in_the_same_turn_as_a_crash_is_lost(self) -> None:
        """In this test, the tasks of the crashed journal continue. They must write nothing more."""
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        answer = journal.accept(entry("B"))
        append_fact(journal, begun("A"), Finished(1, 200, 0.5, msgspec.Raw(b'"r"')))
        self.crash(journal)
        append_fact(journal, begun("A"), Settled(State.SUCCEEDED))
        next_journal = self.new()
        recovered = await next_journal.open()
        await asyncio.sleep(0.01)
        assert await next_journal.accept(entry("C")) is None
        await next_journal.close(clean=True)
        assert [(run.id, run.progress.results) for run in recovered.runs] == [("A", {})]
        assert [run.id for run in (await self.reopen()).runs] == ["A", "C"]
        assert not answer.done() or answer.cancelled()  # the run is not reported as durable

    async def test_facts_of_one_turn_become_durable_together(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        await journal.accept(entry("B"))
        append_fact(journal, begun("A"), Finished(1, 0, 0, msgspec.Raw(b"7")))
        await write(journal, begun("B"), Settled(State.SUCCEEDED))
        self.crash(journal)
        (run,) = (await self.reopen()).runs
        assert (run.id, run.progress.results) == ("A", {1: msgspec.Raw(b"7")})

    async def test_facts_that_no_task_waited_for_are_found_after_an_ordered_end(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        await journal.accept(entry("B"))
        append_fact(journal, begun("A"), Settled(State.SUCCEEDED))
        await journal.close(clean=True)
        assert [run.id for run in (await self.reopen()).runs] == ["B"]

    async def test_after_a_restart_a_run_has_the_flow_that_it_began_with(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        await journal.accept(entry("B", flow=OTHER_FLOW))
        await journal.close(clean=True)
        assert [run.flow for run in (await self.reopen()).runs] == [FLOW, OTHER_FLOW]

    async def test_runs_are_found_in_the_order_of_their_acceptance(self) -> None:
        journal = self.new()
        await journal.open()
        for name in "CAB":
            await journal.accept(entry(name))
        await journal.close(clean=True)
        assert [run.id for run in (await self.reopen()).runs] == ["C", "A", "B"]

    async def test_a_dead_letter_is_not_an_open_run(self) -> None:
        journal = self.new()
        await journal.open()
        fact = Dead("malformed", "not JSON", "mqtt", b"\xff\x00")
        assert await journal.accept(entry("A", flow=None, facts=(fact,))) is None
        await journal.close(clean=True)
        assert (await self.reopen()).runs == []

    async def test_a_cancelled_wait_does_not_disturb_other_calls(self) -> None:
        journal = self.new()
        await journal.open()
        finding = asyncio.ensure_future(journal.find("k", 1_000))
        await journal.accept(entry("A", key="k"))
        durable = asyncio.ensure_future(write(journal, begun("A"), RequestStarted(1)))
        await asyncio.sleep(0)
        finding.cancel()
        durable.cancel()
        await write(journal, begun("A"), Finished(1, 0, 0, msgspec.Raw(b"7")))
        await journal.close(clean=True)
        (run,) = (await self.reopen()).runs
        assert run.progress.results == {1: msgspec.Raw(b"7")}

    async def test_a_journal_cannot_be_opened_twice_at_the_same_time(self) -> None:
        journal = self.new()
        await journal.open()
        with pytest.raises(JournalInUse):
            await self.new().open()
        await journal.close(clean=True)
        await self.reopen()
