"""How runs end if the log has gaps. The tests use no disk."""

from __future__ import annotations

import msgspec

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.rejoin import LOST, LOST_BEGINNING, LOST_FLOW, HistoryBefore, rejoin
from fractal_rm.adapters.log.run_updates import RunUpdate
from fractal_rm.adapters.log.segments import PlacedBody
from fractal_rm.domain.facts import AnyFact, Finished, Released, Settled
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import FLOW, accepted, begun

EMPTY = HistoryBefore([], lambda _: None, lambda _: False)
BODY_OF_LATER_RELEASE = PlacedBody(b'[["later", 7]]', 0)


def timed(fact: AnyFact) -> msgspec.Raw:
    return msgspec.Raw(records.encode((1_000, fact)))


def begin(run_id: str) -> tuple:
    return ("run", run_id, FLOW.id, None, "", 0, [timed(accepted())])


def finish_step(run_id: str) -> tuple:
    return ("fact", run_id, timed(Finished(1, 200, 0.1, msgspec.Raw(b'"r"'))))


def end(run_id: str) -> tuple:
    return ("end", run_id, timed(Settled(State.SUCCEEDED)), 0)


def duplicate(run_id: str) -> tuple:
    return ("again", run_id, 1)


def flow() -> tuple:
    return ("flow", flow_version(FLOW), msgspec.Raw(records.encode(FLOW)))


def body(*entries: tuple) -> PlacedBody:
    return PlacedBody(records.encode(entries), 0)


def updates_of(result) -> dict[str, RunUpdate]:
    return {update.run_id: update for update in result.updates}


def facts_of(result, run_id: str) -> list:
    return msgspec.json.decode(updates_of(result)[run_id].body(), type=list[tuple[int, AnyFact]])


def states(result) -> dict[str, State]:
    return {run_id: update.state for run_id, update in updates_of(result).items()}


def test_without_a_gap_every_run_is_unchanged():
    result = rejoin(
        [[body(flow(), begin("a"), begin("b")), body(finish_step("a"), end("b"))]], EMPTY
    )
    assert states(result) == {"a": State.RUNNING, "b": State.SUCCEEDED}
    assert result.incomplete_runs == 0


def test_a_run_that_was_open_at_a_gap_ends_as_unknown_unless_its_end_follows():
    result = rejoin(
        [[body(flow(), begin("no later facts"), begin("later fact"), begin("end"))],
         [body(finish_step("later fact"), end("end"), begin("new"))]], EMPTY
    )  # fmt: skip
    assert states(result) == {
        "no later facts": State.UNKNOWN, "later fact": State.UNKNOWN, "end": State.SUCCEEDED,
        "new": State.ACCEPTED,
    }  # fmt: skip
    assert (result.unknown, result.ended) == (["no later facts", "later fact"], ["end"])
    assert updates_of(result)["no later facts"].reason == LOST


def test_a_run_that_is_open_in_the_history_at_a_gap_ends_as_unknown_unless_its_end_follows():
    def states_with(parts: list[list[PlacedBody]]) -> dict[str, State]:
        history = HistoryBefore(["open"], {"open": begun("open")}.get, lambda _: True)
        return states(rejoin(parts, history))

    assert states_with([[]]) == {}
    assert states_with([[], []]) == {"open": State.UNKNOWN}
    assert states_with([[], [body(end("open"))]]) == {"open": State.SUCCEEDED}


def test_a_run_that_began_in_a_gap_is_set_aside_with_its_later_facts():
    result = rejoin([[], [body(finish_step("a"), duplicate("of another journal"))]], EMPTY)
    assert states(result) == {"a": State.DEAD}
    ((_, fact),) = facts_of(result, "a")
    assert fact.reason == LOST_BEGINNING
    assert b'"fact":"finished"' in fact.body


def test_a_run_whose_flow_was_in_a_gap_ends_as_unknown():
    result = rejoin([[], [body(begin("a"))]], EMPTY)
    assert states(result) == {"a": State.UNKNOWN}
    assert updates_of(result)["a"].reason == LOST_FLOW
    history = HistoryBefore([], lambda _: None, lambda version: version == flow_version(FLOW))
    assert states(rejoin([[], [body(begin("a"))]], history)) == {"a": State.ACCEPTED}


def test_a_valid_body_that_cannot_be_decoded_is_a_gap():
    result = rejoin([[body(flow(), begin("a")), BODY_OF_LATER_RELEASE, body(begin("b"))]], EMPTY)
    assert states(result) == {"a": State.UNKNOWN, "b": State.ACCEPTED}
    assert result.undecodable == 1


def test_a_run_with_an_inapplicable_fact_ends_as_unknown_with_its_earlier_facts():
    result = rejoin([[body(flow(), begin("a")), body(("fact", "a", timed(Released())))]], EMPTY)
    assert states(result) == {"a": State.UNKNOWN}
    assert len(facts_of(result, "a")) == 2


def test_facts_of_a_run_that_has_ended_in_the_history_change_nothing():
    ended_run = Run("a", Flow("7"), 0, state=State.UNKNOWN)
    history = HistoryBefore([], {"a": ended_run}.get, lambda _: True)
    result = rejoin([[body(finish_step("a"))]], history)
    assert updates_of(result) == {}


def test_runs_that_ended_before_the_position_of_the_history_are_left_out():
    first = PlacedBody(body(flow(), begin("a"), begin("b"), end("b"), duplicate("x")).body, 10)
    second = PlacedBody(body(finish_step("a"), duplicate("x")).body, 20)
    result = rejoin([[first, second]], HistoryBefore([], lambda _: None, lambda _: True, 10))
    assert states(result) == {"a": State.RUNNING}
    assert result.updates.duplicates == {"x": 1}
