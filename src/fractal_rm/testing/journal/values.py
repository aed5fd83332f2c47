"""Tests: the values of runs are the same after a crash."""

# ruff: noqa: S101, D102 - tests, whose names are sentences
from __future__ import annotations

import asyncio

import msgspec

from fractal_rm.domain.evaluation_context import ResponseHead
from fractal_rm.domain.facts import (
    ElementFinished,
    Finished,
    StepPassed,
    Stopping,
    WaitStarted,
)
from fractal_rm.domain.result import NULL
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.testing.journal.every_kind import (
    ACCEPTED_WITH_ALL_FIELDS,
    EVERY_FACT,
    EVERY_OPTION_FLOW,
    EVERY_STEP,
    LATER,
)
from fractal_rm.testing.journal.journal_tests import JournalTests
from fractal_rm.testing.journal.samples import (
    FLOW,
    accepted,
    append_fact,
    begun,
    entry,
    write,
)


class ValueTests(JournalTests):
    """Every field of every kind of fact and step is read back unchanged."""

    async def test_results_that_are_bytes_are_the_same_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        a = begun("A")
        append_fact(journal, a, Finished(1, 200, 0.5, NULL, data=b"\xff\0\xd8"))
        append_fact(journal, a, ElementFinished(2, 1, 200, 0.5, NULL, b"\xfe"))
        await write(journal, a, StepPassed(3, NULL, b"\xfd"))
        self.crash(journal)
        run = (await self.reopen()).runs[0]
        assert run == a
        assert (run.progress.results, run.progress.elements) == (
            {1: b"\xff\0\xd8"},
            {2: {1: b"\xfe"}},
        )
        assert (run.progress.flow_reply, run.progress.result_bytes) == (b"\xfd", 5)

    async def test_large_values_are_the_same_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        payload, reply = (msgspec.Raw(b'"%b"' % (each * 100_000)) for each in (b"p", b"r"))
        first = accepted(payload=payload)
        await journal.accept(entry("A", facts=(first,)))
        a = fold(Run("A", FLOW, 1_000), [first])
        append_fact(journal, a, Finished(1, 200, 0.5, NULL, data=b"\xff\0" * 50_000))
        append_fact(journal, a, ElementFinished(2, 1, 200, 0.5, payload))
        await write(journal, a, StepPassed(3, reply))
        for _ in range(2):  # the first start reads the log, the second start reads the history
            self.crash(journal)
            journal = self.new()
            (run,) = (await journal.open()).runs
            assert run == a
            assert (run.accepted.payload, run.progress.flow_reply) == (payload, reply)
            await asyncio.sleep(0)  # let the tasks of the journal start
        await journal.close(clean=True)

    async def test_every_option_of_a_call_is_the_same_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", flow=EVERY_OPTION_FLOW))
        a = begun("A", EVERY_OPTION_FLOW)
        append_fact(journal, a, Finished(1, 0, 0, msgspec.Raw(b"null")))
        await write(journal, a, Finished(2, 203, 0.5, msgspec.Raw(b'"r"'), {"etag": "7"}))
        self.crash(journal)
        run = (await self.reopen()).runs[0]
        assert run.flow == EVERY_OPTION_FLOW
        assert run.progress.heads == {2: ResponseHead(203, {"etag": "7"})}
        assert [bytes(result) for result in run.progress.results.values()] == [b"null", b'"r"']

    async def test_every_kind_of_step_is_the_same_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", flow=EVERY_STEP, facts=(ACCEPTED_WITH_ALL_FIELDS,)))
        a = fold(Run("A", EVERY_STEP, 1_000), [ACCEPTED_WITH_ALL_FIELDS])
        for fact in EVERY_FACT:
            await write(journal, a, fact)
        self.crash(journal)
        run = (await self.reopen()).runs[0]
        assert run == a
        assert (run.flow, run.accepted.origin, run.accepted.correlation) == (
            EVERY_STEP,
            "B:2",
            b"\xff\0",
        )
        assert run.progress.elements == {2: {2: msgspec.Raw(b'"two"')}}
        assert (run.progress.last_wait, run.progress.passed_steps, run.progress.flow_reply) == (
            WaitStarted(2, LATER),
            {2, 4},
            msgspec.Raw(b"[7]"),
        )
        assert (run.progress.in_doubt, run.progress.undone_steps) == ({"2.1", "undo.1"}, {3})
        assert run.progress.failures is not None
        assert {name: last.attempt for name, last in run.progress.failures.items()} == {
            "2.3": 2,
            "@3": 1,
        }
        assert run.stopping == Stopping(State.FAILED, "no")
