"""What every journal must do. Subclass, and say how one is made and how it ends in a crash.

class TestMine(JournalConformance):
def new(self): return MyJournal(self.place)
def crash(self, journal): …
"""

# ruff: noqa: S101, D102 - a suite of tests, whose names are sentences
from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import msgspec
import pytest

from fractal_rm.domain.errors import JournalFull, JournalGone, JournalInUse
from fractal_rm.domain.expression import (
    AllOf,
    AnyOf,
    Base64,
    Compare,
    Comparison,
    Header,
    Item,
    ListOf,
    Literal,
    Not,
    ObjectOf,
    Payload,
    Result,
    Status,
)
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    Dead,
    ElementFinished,
    Finished,
    Passed,
    Placed,
    Settled,
    Started,
    StepFailed,
    Stopping,
    Undone,
    Waiting,
)
from fractal_rm.domain.flow import (
    Call,
    CatchUp,
    Content,
    Cron,
    Each,
    Errors,
    Flow,
    Method,
    Order,
    Publish,
    Queueing,
    Respond,
    Retry,
    Starts,
    SubFlow,
    Terms,
    Undo,
    Wait,
    flow_version,
)
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.result import NULL
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.seen import Head
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Entry, Journal, Recovered

FLOW = Flow("7", "a flow", (Call(1, "c", "e", Method.GET),))
OTHER_FLOW = Flow("7", "the same flow, edited", (Call(1, "c", "e2", Method.GET),))
TOLD = Terms(
    name="found",
    json=ObjectOf((("a", Result(1, "b[0]")), ("c", ListOf((Payload(), Literal([1, None])))))),
    when=AllOf((Compare(Comparison.IN, Status(1), Literal([200])), Not(Payload("x")))),
    expect=AnyOf((Compare(Comparison.EQUAL, Header(2, "etag"), Literal("7")), Literal(False))),
    timeout_ms=800,
    retry=Retry(3, 50),
    headers=(("X-A", Payload("a")),),
    query=(("q", Literal("b")),),
    keeps=("etag",),
)
TOLD_FLOW = Flow(
    "8",
    steps=(
        Call(1, "c", "e", Method.PATCH, terms=Terms(raw=Payload("text"))),
        Call(2, "c", "e", Method.PUT, terms=TOLD),
    ),
    deadline_ms=5_000,
    errors=Errors.CONTINUE,
)
HOUR_MS = 3_600_000
EVERY_STEP = Flow(
    "9",
    steps=(
        Call(1, "c", "e", Method.GET, terms=Terms(undo=Undo("e", (Result(1),)))),
        Call(2, "c", "e", Method.GET, terms=Terms(each=Each(Payload("list"), 3))),
        Wait(1_000, Compare(Comparison.LESS, Payload("n"), Literal(1))),
        Publish("a/b", Content(json=ObjectOf((("a", Item("x")), ("b", Base64(Result(1))))))),
        Respond(Content(raw=Result(1))),
        SubFlow(3, "8", Content((Payload(),)), "name"),
    ),
    order=Order.DATAFLOW,
    starts=Starts(("a/+",), 30_000, Cron("0 6 * * *", "Europe/Rome"), CatchUp.ALL),
    queueing=Queueing(4, 9, 1_000, "id"),
)
CAME_WITH_ALL = Accepted(
    "9", flow_version(EVERY_STEP), msgspec.Raw(b"{}"), "flow", placed=True, key="k",
    budget_ms=5_000, origin="B:2", reply_topic="r", correlation=b"\xff\0", traceparent="00-1-2-01",
)  # fmt: skip
LATER = Moment("boot", 5_000, 1_700_000_000_000)
WHAT_HAPPENED: tuple[AnyFact, ...] = (
    Started(1),
    Finished(1, 200, 0.5, msgspec.Raw(b'"one"')),
    Waiting(2, LATER),
    Passed(2),
    Passed(4, msgspec.Raw(b"[7]")),
    Started(2, 1, "2.1"),
    ElementFinished(2, 2, 200, 0.5, msgspec.Raw(b'"two"')),
    StepFailed(2, 1, "no", "2.3", LATER),
    StepFailed(2, 2, "no", "2.3", final=True),
    StepFailed(0, 1, "no", "@3", LATER),
    Finished(3, 0, 0, msgspec.Raw(b'{"any": "json"}')),
    Stopping(State.FAILED, "no"),
    Undone(3, 200, 0.5),
    Started(1, 1, "undo.1"),
)


def accepted(flow: Flow = FLOW, payload: bytes = b'"p"') -> Accepted:
    """Make the first fact of a run."""
    return Accepted(flow.id, flow_version(flow), msgspec.Raw(payload), "mqtt")


def entry(
    run_id: str,
    *,
    flow: Flow | None = FLOW,
    key: str | None = None,
    digest: str = "d",
    at_ms: int = 1_000,
    facts: tuple[AnyFact, ...] | None = None,
    window_ms: int = HOUR_MS,
) -> Entry:
    """Make an entry for a new run."""
    made = facts or ((accepted(flow),) if flow else ())
    run = fold(Run(run_id, flow or Flow(""), at_ms), list(made))
    until_ms = at_ms + window_ms
    return Entry(run_id, flow, at_ms, made, run.state, run.reason, key, digest, until_ms, at_ms)


def begun(run_id: str, flow: Flow = FLOW) -> Run:
    """Make the run that `entry` begins."""
    return fold(Run(run_id, flow, 1_000), [accepted(flow)])


def write(journal: Journal, run: Run, fact: AnyFact, at_ms: int = 1_001) -> Awaitable[None]:
    """Let a run follow a fact and append it, as the engine does."""
    run.apply(fact)
    journal.append(run, fact, at_ms)
    return journal.durable


class JournalConformance:
    """Every journal's promises."""

    def new(self) -> Journal:
        raise NotImplementedError

    def beside(self) -> Journal:
        """Another journal of the same node."""
        raise NotImplementedError

    def crash(self, journal: Journal) -> None:
        """End it as kill -9 does."""
        raise NotImplementedError

    def fill(self, journal: Journal, *, full: bool) -> None:
        """Make its disk full, or give it room again."""
        raise NotImplementedError

    def move(self, journal: Journal, *, away: bool) -> None:
        """Move what it has written to another place, or back; what is open stays open."""
        raise NotImplementedError

    async def test_what_was_accepted_is_there_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        assert await journal.accept(entry("A")) is None
        self.crash(journal)
        found = await self._reopened()
        assert [run.id for run in found.runs] == ["A"]
        assert found.runs[0].state is State.ACCEPTED
        assert bytes(found.runs[0].payload) == b'"p"'
        assert not found.clean

    async def test_the_newest_run_of_our_own_is_named(self) -> None:
        """Those of peers have ids by other clocks."""
        journal = self.new()
        assert (await journal.open()).newest == ""
        await journal.accept(entry("A"))
        await journal.accept(entry("B"))
        handed = msgspec.structs.replace(accepted(), source="peer")
        await journal.accept(entry("C", facts=(handed,)))
        await journal.close(clean=True)
        assert (await self._reopened()).newest == "B"

    async def test_an_ordered_end_is_told_from_a_crash(self) -> None:
        journal = self.new()
        assert (await journal.open()).clean
        await journal.close(clean=True)
        await journal.close(clean=True)
        assert (await self._reopened()).clean

    async def test_what_was_waited_for_is_there_after_a_crash_in_order(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        a = begun("A")
        _ = write(journal, a, Placed(None, "here"))
        _ = write(journal, a, Finished(1, 200, 0.5, msgspec.Raw(b'"r"')))
        await write(journal, a, Started(2))
        self.crash(journal)
        run = (await self._reopened()).runs[0]
        assert (run.state, run.in_doubt, run.reason) == (State.RUNNING, {"2"}, "here")
        assert run.results == {1: msgspec.Raw(b'"r"')}

    async def test_what_is_handed_in_in_the_turn_of_a_crash_is_gone(self) -> None:
        """Nothing is written any more for a process that is gone, whoever still runs."""
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        accepted = journal.accept(entry("B"))
        _ = write(journal, begun("A"), Finished(1, 200, 0.5, msgspec.Raw(b'"r"')))
        self.crash(journal)
        _ = write(journal, begun("A"), Settled(State.SUCCEEDED))
        again = self.new()
        found = await again.open()
        await asyncio.sleep(0.01)
        assert await again.accept(entry("C")) is None
        await again.close(clean=True)
        assert [(run.id, run.results) for run in found.runs] == [("A", {})]
        assert [run.id for run in (await self._reopened()).runs] == ["A", "C"]
        assert not accepted.done() or accepted.cancelled()  # nobody is told that it is durable

    async def test_a_key_is_known_while_what_is_behind_it_goes_on(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", key="k"))
        await write(journal, begun("A"), Settled(State.SUCCEEDED))
        prior = await journal.find("k", 1_000)
        assert prior is not None
        assert (prior.run_id, prior.state) == ("A", State.SUCCEEDED)
        await journal.close(clean=True)

    async def test_who_no_longer_waits_disturbs_nobody_else(self) -> None:
        journal = self.new()
        await journal.open()
        finding = asyncio.ensure_future(journal.find("k", 1_000))
        await journal.accept(entry("A", key="k"))
        durable = asyncio.ensure_future(write(journal, begun("A"), Started(1)))
        await asyncio.sleep(0)
        finding.cancel()
        durable.cancel()
        await write(journal, begun("A"), Finished(1, 0, 0, msgspec.Raw(b"7")))
        await journal.close(clean=True)
        (run,) = (await self._reopened()).runs
        assert run.results == {1: msgspec.Raw(b"7")}

    async def test_an_end_while_the_disk_is_full_keeps_nobody_waiting(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        self.fill(journal, full=True)
        result = msgspec.Raw(b'"%b"' % (b"y" * 200_000))
        durable = asyncio.ensure_future(write(journal, begun("A"), Finished(1, 200, 0.5, result)))
        await asyncio.sleep(0.05)
        assert isinstance(journal.blocked, JournalFull)
        await journal.close(clean=True)
        with pytest.raises(JournalFull):
            await durable
        self.fill(journal, full=False)
        found = await self._reopened()
        assert ([run.results for run in found.runs], found.clean) == ([{}], False)

    async def test_an_end_right_after_there_is_room_again_writes_what_waited(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        self.fill(journal, full=True)
        result = msgspec.Raw(b'"%b"' % (b"y" * 200_000))
        _ = write(journal, begun("A"), Finished(1, 200, 0.5, result))
        await asyncio.sleep(0.05)
        assert isinstance(journal.blocked, JournalFull)
        self.fill(journal, full=False)
        await journal.close(clean=True)
        found = await self._reopened()
        assert ([run.results for run in found.runs], found.clean) == ([{1: result}], True)

    async def test_results_that_are_bytes_are_the_same_bytes_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        a = begun("A")
        _ = write(journal, a, Finished(1, 200, 0.5, NULL, data=b"\xff\0\xd8"))
        _ = write(journal, a, ElementFinished(2, 1, 200, 0.5, NULL, b"\xfe"))
        await write(journal, a, Passed(3, NULL, b"\xfd"))
        self.crash(journal)
        run = (await self._reopened()).runs[0]
        assert run == a
        assert (run.results, run.elements) == ({1: b"\xff\0\xd8"}, {2: {1: b"\xfe"}})
        assert (run.said, run.result_bytes) == (b"\xfd", 5)

    async def test_large_values_are_the_same_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        payload, reply = (msgspec.Raw(b'"%b"' % (each * 100_000)) for each in (b"p", b"r"))
        first = accepted(payload=payload)
        await journal.accept(entry("A", facts=(first,)))
        a = fold(Run("A", FLOW, 1_000), [first])
        _ = write(journal, a, Finished(1, 200, 0.5, NULL, data=b"\xff\0" * 50_000))
        _ = write(journal, a, ElementFinished(2, 1, 200, 0.5, payload))
        await write(journal, a, Passed(3, reply))
        for _again in range(2):  # out of the log, and out of what that was brought into
            self.crash(journal)
            journal = self.new()
            (run,) = (await journal.open()).runs
            assert run == a
            assert (run.payload, run.said) == (payload, reply)
            await asyncio.sleep(0)  # whoever begins it has begun
        await journal.close(clean=True)

    async def test_what_a_flow_says_and_asks_for_is_there_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", flow=TOLD_FLOW))
        a = begun("A", TOLD_FLOW)
        _ = write(journal, a, Finished(1, 0, 0, msgspec.Raw(b"null")))
        await write(journal, a, Finished(2, 203, 0.5, msgspec.Raw(b'"r"'), {"etag": "7"}))
        self.crash(journal)
        run = (await self._reopened()).runs[0]
        assert run.flow == TOLD_FLOW
        assert run.heads == {2: Head(203, {"etag": "7"})}
        assert [bytes(result) for result in run.results.values()] == [b"null", b'"r"']

    async def test_every_kind_of_step_is_there_after_a_crash(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", flow=EVERY_STEP, facts=(CAME_WITH_ALL,)))
        a = fold(Run("A", EVERY_STEP, 1_000), [CAME_WITH_ALL])
        for fact in WHAT_HAPPENED:
            await write(journal, a, fact)
        self.crash(journal)
        run = (await self._reopened()).runs[0]
        assert run == a
        assert (run.flow, run.origin, run.correlation) == (EVERY_STEP, "B:2", b"\xff\0")
        assert run.elements == {2: {2: msgspec.Raw(b'"two"')}}
        assert (run.waiting, run.passed, run.said) == (
            Waiting(2, LATER),
            {2, 4},
            msgspec.Raw(b"[7]"),
        )
        assert (run.in_doubt, run.undone) == ({"2.1", "undo.1"}, {3})
        assert run.failures is not None
        assert {name: last.attempt for name, last in run.failures.items()} == {"2.3": 2, "@3": 1}
        assert run.stopping == Stopping(State.FAILED, "no")

    async def test_what_is_handed_in_in_one_turn_is_durable_together(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        await journal.accept(entry("B"))
        _ = write(journal, begun("A"), Finished(1, 0, 0, msgspec.Raw(b"7")))
        await write(journal, begun("B"), Settled(State.SUCCEEDED))
        self.crash(journal)
        (run,) = (await self._reopened()).runs
        assert (run.id, run.results) == ("A", {1: msgspec.Raw(b"7")})

    async def test_what_was_written_behind_is_there_after_an_ordered_end(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        await journal.accept(entry("B"))
        _ = write(journal, begun("A"), Settled(State.SUCCEEDED))
        await journal.close(clean=True)
        assert [run.id for run in (await self._reopened()).runs] == ["B"]

    async def test_a_run_ends_with_the_flow_that_it_began_with(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        await journal.accept(entry("B", flow=OTHER_FLOW))
        await journal.close(clean=True)
        assert [run.flow for run in (await self._reopened()).runs] == [FLOW, OTHER_FLOW]

    async def test_runs_are_found_oldest_first(self) -> None:
        journal = self.new()
        await journal.open()
        for name in "CAB":
            await journal.accept(entry(name))
        await journal.close(clean=True)
        assert [run.id for run in (await self._reopened()).runs] == ["C", "A", "B"]

    async def test_a_known_key_is_the_same_run(self) -> None:
        journal = self.new()
        await journal.open()
        assert await journal.accept(entry("A", key="k", digest="x")) is None
        prior = await journal.accept(entry("B", key="k", digest="y"))
        assert prior is not None
        assert (prior.run_id, prior.digest, prior.state) == ("A", "x", State.ACCEPTED)
        assert await journal.find("k", 1_000) == prior
        assert await journal.find("other", 1_000) is None
        await journal.close(clean=True)

    async def test_of_duplicates_at_once_one_becomes_a_run(self) -> None:
        journal = self.new()
        await journal.open()
        answers = await asyncio.gather(*(journal.accept(entry(c, key="k")) for c in "ABCDEFGH"))
        assert [prior for prior in answers if prior is None] == [None]
        await journal.close(clean=True)
        assert len((await self._reopened()).runs) == 1

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

    async def test_a_key_may_be_used_again_after_its_window(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", key="k", window_ms=10))
        assert await journal.accept(entry("B", key="k", at_ms=1_010, window_ms=10)) is None
        prior = await journal.accept(entry("C", key="k", at_ms=1_011, window_ms=10))
        assert prior is not None
        assert prior.run_id == "B"
        await journal.close(clean=True)

    async def test_a_run_id_is_taken_once(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A", key="k1"))
        prior = await journal.accept(entry("A", key="k2"))
        assert prior is not None
        assert prior.run_id == "A"
        await journal.close(clean=True)

    async def test_a_dead_letter_is_no_open_run(self) -> None:
        journal = self.new()
        await journal.open()
        fact = Dead("malformed", "not JSON", "mqtt", b"\xff\x00")
        assert await journal.accept(entry("A", flow=None, facts=(fact,))) is None
        await journal.close(clean=True)
        assert (await self._reopened()).runs == []

    async def test_a_full_disk_refuses_new_runs_and_keeps_facts_of_open_ones(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        self.fill(journal, full=True)
        big = entry("B", facts=(accepted(payload=b'"' + b"x" * 200_000 + b'"'),))
        with pytest.raises(JournalFull):
            await journal.accept(big)
        a, result = begun("A"), msgspec.Raw(b'"%b"' % (b"y" * 200_000))
        durable = asyncio.ensure_future(write(journal, a, Finished(1, 200, 0.5, result)))
        await asyncio.sleep(0.05)
        assert isinstance(journal.blocked, JournalFull)
        assert not durable.done()
        _ = write(journal, a, Started(2))
        self.fill(journal, full=False)
        await durable
        assert journal.blocked is None
        assert await journal.accept(entry("C")) is None
        await journal.close(clean=True)
        found = await self._reopened()
        assert [(run.id, run.in_doubt) for run in found.runs] == [("A", {"2"}), ("C", None)]
        assert [run.results for run in found.runs] == [{1: result}, {}]

    async def test_what_would_not_be_found_again_is_refused_until_the_journal_is_back(self) -> None:
        journal = self.new()
        await journal.open()
        await journal.accept(entry("A"))
        self.move(journal, away=True)
        with pytest.raises(JournalGone):
            await journal.accept(entry("B"))
        assert isinstance(journal.blocked, JournalGone)
        a, result = begun("A"), msgspec.Raw(b'"r"')
        durable = asyncio.ensure_future(write(journal, a, Finished(1, 200, 0.5, result)))
        with pytest.raises(JournalGone):
            await journal.accept(entry("C"))
        assert not durable.done()
        self.move(journal, away=False)
        await durable
        assert await journal.accept(entry("D")) is None
        self.crash(journal)
        found = await self._reopened()
        assert [(run.id, run.results) for run in found.runs] == [("A", {1: result}), ("D", {})]

    async def test_who_looks_sees_that_the_journal_is_gone_before_anything_is_written(self) -> None:
        journal = self.new()
        await journal.open()
        self.move(journal, away=True)
        journal.look()
        assert isinstance(journal.blocked, JournalGone)
        self.move(journal, away=False)
        await journal.close(clean=True)

    async def test_the_open_runs_of_a_journal_that_nobody_holds_go_on_in_another(self) -> None:
        left = self.beside()
        await left.open()
        for name in ("A", "B", "C"):
            await left.accept(entry(name, key=f"key of {name}"))
        a = begun("A")
        await write(left, a, Finished(1, 200, 0.5, NULL, data=b"\xff"))
        await write(left, begun("B"), Settled(State.SUCCEEDED))
        self.crash(left)
        journal = self.new()
        assert (await journal.open()).runs == []
        (adopted,) = await journal.adopt()
        assert [run.id for run in adopted.found.runs] == ["A", "C"]
        assert (adopted.found.runs[0], adopted.found.clean, adopted.left) == (a, False, [])
        assert await journal.adopt() == []
        await write(journal, a, Started(2))
        self.crash(journal)
        journal = self.new()
        assert [run.id for run in (await journal.open()).runs] == ["A", "C"]
        for name, state in (("A", State.RUNNING), ("B", State.SUCCEEDED), ("C", State.ACCEPTED)):
            prior = await journal.accept(entry("new", key=f"key of {name}"))
            assert prior is not None
            assert (prior.run_id, prior.state) == (name, state)
        await journal.close(clean=True)
        left = self.beside()
        assert (await left.open()).runs == []
        await left.close(clean=True)

    async def test_a_journal_that_another_process_holds_is_asked_and_not_adopted(self) -> None:
        held = self.beside()
        await held.open()
        await held.accept(entry("A", key="k", digest="x"))
        journal = self.new()
        await journal.open()
        assert await journal.adopt() == []
        prior = await journal.find("k", 1_000)
        assert prior is not None
        assert (prior.run_id, prior.digest) == ("A", "x")
        for again in (entry("B", key="k"), entry("A", key="other")):
            prior = await journal.accept(again)
            assert prior is not None
            assert prior.run_id == "A"
        await held.close(clean=True)
        (adopted,) = await journal.adopt()
        assert ([run.id for run in adopted.found.runs], adopted.found.clean) == (["A"], True)
        await journal.close(clean=True)

    async def test_one_journal_at_a_time(self) -> None:
        journal = self.new()
        await journal.open()
        with pytest.raises(JournalInUse):
            await self.new().open()
        await journal.close(clean=True)
        await self._reopened()

    async def _reopened(self) -> Recovered:
        journal = self.new()
        found = await journal.open()
        await journal.close(clean=True)
        return found
