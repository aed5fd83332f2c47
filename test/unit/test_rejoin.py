"""What gaps in a log make of its runs, told without a disk."""

from __future__ import annotations

import msgspec

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.rejoin import LOST, LOST_BEGINNING, LOST_FLOW, Before, rejoin
from fractal_rm.adapters.log.segments import Put
from fractal_rm.adapters.log.stories import Story
from fractal_rm.domain.facts import AnyFact, Finished, Released, Settled
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.testing.journal import FLOW, accepted, begun

EMPTY = Before([], lambda _: None, lambda _: False)
LATER = Put(b'[["later", 7]]', 0)


def timed(fact: AnyFact) -> msgspec.Raw:
    return msgspec.Raw(records.encode((1_000, fact)))


def begins(run_id: str) -> tuple:
    return ("run", run_id, FLOW.id, None, "", 0, [timed(accepted())])


def goes_on(run_id: str) -> tuple:
    return ("fact", run_id, timed(Finished(1, 200, 0.1, msgspec.Raw(b'"r"'))))


def ends(run_id: str) -> tuple:
    return ("end", run_id, timed(Settled(State.SUCCEEDED)), 0)


def comes_again(run_id: str) -> tuple:
    return ("again", run_id, 1)


def flow() -> tuple:
    return ("flow", flow_version(FLOW), msgspec.Raw(records.encode(FLOW)))


def body(*said: tuple) -> Put:
    return Put(records.encode(said), 0)


def told(found) -> dict[str, Story]:
    return {story.run_id: story for story in found.stories}


def facts_of(found, run_id: str) -> list:
    return msgspec.json.decode(told(found)[run_id].body(), type=list[tuple[int, AnyFact]])


def states(found) -> dict[str, State]:
    return {run_id: story.state for run_id, story in told(found).items()}


def test_what_has_no_gap_is_told_as_it_is():
    found = rejoin([[body(flow(), begins("a"), begins("b")), body(goes_on("a"), ends("b"))]], EMPTY)
    assert states(found) == {"a": State.RUNNING, "b": State.SUCCEEDED}
    assert found.touched == 0


def test_a_run_that_was_open_at_a_gap_is_not_repeated_whatever_stands_behind():
    found = rejoin(
        [[body(flow(), begins("quiet"), begins("goes on"), begins("ends"))],
         [body(goes_on("goes on"), ends("ends"), begins("new"))]], EMPTY
    )  # fmt: skip
    assert states(found) == {
        "quiet": State.UNKNOWN, "goes on": State.UNKNOWN, "ends": State.SUCCEEDED,
        "new": State.ACCEPTED,
    }  # fmt: skip
    assert (found.unknown, found.ended) == (["quiet", "goes on"], ["ends"])
    assert told(found)["quiet"].reason == LOST


def test_so_is_one_that_is_open_in_the_history():
    def of(parts: list[list[bytes]]) -> dict[str, State]:
        return states(rejoin(parts, Before(["held"], {"held": begun("held")}.get, lambda _: True)))

    assert of([[]]) == {}
    assert of([[], []]) == {"held": State.UNKNOWN}
    assert of([[], [body(ends("held"))]]) == {"held": State.SUCCEEDED}


def test_facts_of_a_run_that_began_in_a_gap_are_kept_with_it_where_it_is_set_aside():
    found = rejoin([[], [body(goes_on("a"), comes_again("of another journal"))]], EMPTY)
    assert states(found) == {"a": State.DEAD}
    ((_, fact),) = facts_of(found, "a")
    assert fact.reason == LOST_BEGINNING
    assert b'"fact":"finished"' in fact.body


def test_a_run_whose_flow_was_in_a_gap_cannot_go_on():
    found = rejoin([[], [body(begins("a"))]], EMPTY)
    assert states(found) == {"a": State.UNKNOWN}
    assert told(found)["a"].reason == LOST_FLOW
    known = Before([], lambda _: None, lambda version: version == flow_version(FLOW))
    assert states(rejoin([[], [body(begins("a"))]], known)) == {"a": State.ACCEPTED}


def test_what_holds_and_cannot_be_read_is_a_gap():
    found = rejoin([[body(flow(), begins("a")), LATER, body(begins("b"))]], EMPTY)
    assert states(found) == {"a": State.UNKNOWN, "b": State.ACCEPTED}
    assert found.unread == 1


def test_facts_that_make_no_run_end_it_as_unknown_with_those_that_do():
    found = rejoin([[body(flow(), begins("a")), body(("fact", "a", timed(Released())))]], EMPTY)
    assert states(found) == {"a": State.UNKNOWN}
    assert len(facts_of(found, "a")) == 2


def test_facts_of_a_run_that_has_ended_in_the_history_change_nothing():
    ended = Run("a", Flow("7"), 0, state=State.UNKNOWN)
    held = Before([], {"a": ended}.get, lambda _: True)
    found = rejoin([[body(goes_on("a"))]], held)
    assert told(found) == {}


def test_what_had_ended_where_the_history_has_all_that_ended_is_not_told_again():
    first = Put(body(flow(), begins("a"), begins("b"), ends("b"), comes_again("x")).body, 10)
    second = Put(body(goes_on("a"), comes_again("x")).body, 20)
    found = rejoin([[first, second]], Before([], lambda _: None, lambda _: True, 10))
    assert states(found) == {"a": State.RUNNING}
    assert found.stories.again == {"x": 1}
