"""The waterfall of a run: its facts as bars on a line of time."""

from __future__ import annotations

import msgspec
import pytest
from test_story import (
    ACCEPTED,
    BEGIN_MS,
    FLOW,
    OTHER,
    PLACED,
    READ,
    RUN,
    _at,
    _raw,
    _told,
)

from fractal_rm.domain.cause import Cause, ResponseExcerpt
from fractal_rm.domain.facts import (
    Accepted,
    ElementFinished,
    Finished,
    Offered,
    OfferInDoubt,
    Parked,
    Placed,
    RequestStarted,
    Restarted,
    Settled,
    StepFailed,
    StepPassed,
    StepUndone,
    WaitStarted,
)
from fractal_rm.domain.state import State
from fractal_rm.domain.story import Child, Lane, RunToTell, tell, waterfall
from fractal_rm.domain.story.bar import MAX_BARS
from fractal_rm.domain.story.placing_table import placing_lines
from fractal_rm.web.pages.runs.waterfall_drawing import draw

BUSY = ResponseExcerpt(503)


def lane(told: RunToTell, key: int | str) -> Lane:
    """The lane of a step by its number, or another lane by its kind or name."""
    lanes = waterfall(told).lanes
    return next(each for each in lanes if key in (each.number, each.kind, each.name))


def bars(told: RunToTell, key: int | str) -> list[tuple[str, str, float, float]]:
    """Kind, tone, begin and end of the bars of a lane, in milliseconds after the acceptance."""
    return [
        (bar.kind, bar.tone, bar.begin_ms - BEGIN_MS, bar.end_ms - BEGIN_MS)
        for bar in lane(told, key).bars
    ]


def at(*facts: tuple[int, object], state: State, **changes) -> RunToTell:
    """A run with facts at times after its acceptance."""
    timed = [(BEGIN_MS + ms, fact) for ms, fact in facts]
    return _told(state=state, facts=timed, **changes)


def test_a_call_begins_as_long_before_its_answer_as_it_took():
    told = at((0, ACCEPTED), (3, PLACED), (20, READ), state=State.RUNNING)

    assert bars(told, "place") == [("queue", "quiet", 0, 3)]
    assert bars(told, 1) == [
        ("queue", "quiet", 3, pytest.approx(11.8)),
        ("call", "ok", pytest.approx(11.8), 20),
    ]


def test_every_attempt_and_the_pauses_between_them_are_on_the_lane_of_the_step():
    again = StepFailed(2, 1, "status 503", retry_at=_at(300), cause=Cause.STATUS, answer=BUSY)
    last = StepFailed(2, 2, "status 503", final=True, cause=Cause.STATUS, answer=BUSY)
    told = at(
        (0, ACCEPTED), (0, PLACED), (9, READ), (100, again), (420, last),
        (421, Settled(State.FAILED, "step 2", Cause.STATUS)), state=State.FAILED, settled_ms=None,
    )  # fmt: skip

    assert bars(told, 2) == [
        ("call", "fail", 9, 100), ("pause", "wait", 100, 300), ("call", "fail", 300, 420),
    ]  # fmt: skip
    assert [bar.label for bar in lane(told, 2).bars] == ["503", "200 ms", "503"]
    assert lane(told, 2).row.state == "failed"


def test_a_wait_and_an_undo_have_bars():
    told = at(
        (0, ACCEPTED), (0, PLACED), (9, READ), (10, WaitStarted(4, _at(60_000))),
        (60_000, StepPassed(4)), (60_010, StepUndone(2, 200, 4.0)), state=State.RUNNING,
    )  # fmt: skip

    assert bars(told, "WAIT 10 min") == [("wait", "quiet", 10, 60_000)]
    assert bars(told, "undo") == [
        ("queue", "quiet", 60_000, 60_006), ("call", "quiet", 60_006, 60_010),
    ]  # fmt: skip
    assert lane(told, "undo").name == "POST press back"


def test_the_elements_of_a_list_are_one_bar_with_their_numbers():
    done = [(10 + n, ElementFinished(5, n, 200, 5.0, _raw('"x"'))) for n in range(1, 1_001)]
    skipped = (1_100, ElementFinished(5, 1_001, 0, 0.0, _raw("null")))
    told = at((0, ACCEPTED), (0, PLACED), *done, skipped, state=State.RUNNING)

    (bar, *_) = lane(told, 5).bars
    assert (bar.begin_ms - BEGIN_MS, bar.end_ms - BEGIN_MS) == (6, 1_100)
    assert bar.text == (
        "1,001 elements done: 1,000 with 200; the slowest took 5 ms; 1 skipped or failed"
    )


def test_very_many_failed_attempts_are_gathered_where_they_were():
    failures = []
    for n in [*range(1, 500), *range(3_000, 3_500)]:
        part, at_ms = f"5.{n}", n * 10
        failed = StepFailed(5, 1, "status 503", part, _at(at_ms + 8), cause=Cause.STATUS)
        failures += [(at_ms, RequestStarted(5, 1, part)), (at_ms + 5, failed)]
    told = at((0, ACCEPTED), (0, PLACED), *failures, (60_000, READ), state=State.RUNNING)

    found = [bar for bar in bars(told, 5) if bar[1] == "fail"]
    assert len(found) < MAX_BARS
    assert max(end - begin for _, _, begin, end in found) < 6_000
    assert found[0][3] <= 5_000
    assert found[-1][2] >= 29_000


def test_a_run_in_flight_shows_the_step_that_it_waits_for_until_now():
    told = at((0, ACCEPTED), (0, PLACED), (9, READ), state=State.RUNNING)

    assert bars(told, 2) == [("call", "wait", 9, 60_000)]
    assert lane(told, 2).bars[0].is_open
    assert not lane(told, 3).bars


def test_a_retry_that_has_not_begun_is_a_pause_until_now():
    again = StepFailed(2, 1, "status 503", retry_at=_at(90_000), cause=Cause.STATUS, answer=BUSY)
    told = at((0, ACCEPTED), (0, PLACED), (9, READ), (100, again), state=State.RUNNING)

    assert bars(told, 2)[1:] == [("pause", "wait", 100, 60_000)]


def test_a_request_whose_answer_was_lost_is_in_doubt_until_the_restart():
    told = at(
        (0, ACCEPTED), (0, PLACED), (9, READ), (10, RequestStarted(2)), (500, Restarted(2)),
        (501, Settled(State.UNKNOWN, "answer lost", Cause.ANSWER_LOST)), state=State.UNKNOWN,
    )  # fmt: skip

    assert bars(told, 2) == [("call", "doubt", 10, 500)]
    assert lane(told, 2).row.state == "unknown"


@pytest.mark.parametrize(
    ("end", "state", "tone"),
    [
        (Settled(State.HANDED_OFF, "node 2 has it", Cause.RECEIPT), State.HANDED_OFF, "away"),
        (Settled(State.UNKNOWN, "node 2 is gone", Cause.PEER_GONE), State.UNKNOWN, "doubt"),
        (Placed("1", "node 2 refused it", cause=Cause.OFFER_REFUSED), State.RUNNING, "doubt"),
    ],
)
def test_an_offer_is_a_bar_until_it_is_known_what_came_of_it(end, state, tone):
    there = Placed("2", "the balancer named node 2", cause=Cause.BALANCER)
    told = at((0, ACCEPTED), (5, there), (6, Offered("2", 1)), (90, end), state=state, node="2")

    assert ("offer", tone, 6, 90) in bars(told, "place")


def test_while_another_node_is_asked_no_step_is_in_flight():
    there = Placed("2", "the balancer named node 2", cause=Cause.BALANCER)
    told = at((0, ACCEPTED), (10, there), state=State.ACCEPTED, now_ms=BEGIN_MS + 60)
    assert bars(told, "place") == [("queue", "quiet", 0, 10), ("offer", "away", 10, 60)]
    assert [each.row.state for each in waterfall(told).lanes if each.row] == ["not begun"] * 8
    assert not any(each.bars for each in waterfall(told).lanes if each.row)
    assert tell(told).why == (
        "It is to be executed on node 2, which is being asked to take it, for 50 ms now."
    )


def test_the_step_that_a_run_waits_for_is_in_flight():
    told = at((0, ACCEPTED), (40, PLACED), state=State.RUNNING, now_ms=BEGIN_MS + 60)
    assert [each.row.state for each in waterfall(told).lanes if each.row][:2] == [
        "in flight", "not begun",
    ]  # fmt: skip


def test_an_offer_in_doubt_and_a_parked_run_go_on_until_now():
    there = Placed("2", "the balancer named node 2", cause=Cause.BALANCER)
    offered = at((0, ACCEPTED), (5, there), (6, Offered("2", 1)),
                 (9, OfferInDoubt("no answer")), state=State.OFFERED)  # fmt: skip
    parked = at((0, ACCEPTED), (5, PLACED), (7, Parked("it is old")), state=State.PARKED)

    assert bars(offered, "place")[-1] == ("offer", "away", 6, 60_000)
    assert bars(parked, "place")[-1] == ("parked", "doubt", 7, 60_000)


def test_a_result_that_is_taken_over_from_another_run_has_no_bar():
    replay = Accepted("7", "v", _raw("1"), "replay", replays=OTHER, from_step=2)
    told = at((0, replay), (0, PLACED), (0, READ), state=State.RUNNING)

    assert bars(told, 1) == []
    assert lane(told, 1).text == "taken over from the run that this run repeats"


def test_a_sub_flow_links_to_the_run_that_it_has_started():
    told = at((0, ACCEPTED), (0, PLACED), (9, READ), (900, Finished(4, 0, 0, _raw('{"a":1}'))),
              state=State.RUNNING, children=[Child(OTHER, State.SUCCEEDED, "8")])  # fmt: skip

    assert lane(told, 4).runs == (OTHER,)
    assert bars(told, 4) == [("call", "ok", 9, 900)]


def test_a_clock_that_was_set_back_makes_no_bar_that_ends_before_it_begins():
    told = at((0, ACCEPTED), (500, PLACED), (-100, READ), (-90, RequestStarted(2)),
              (-200, StepFailed(2, 1, "status 500", final=True)), state=State.RUNNING)  # fmt: skip
    drawn = draw(waterfall(told))

    assert all(bar.took_ms >= 0 for each in waterfall(told).lanes for bar in each.bars)
    assert all(bar.x >= 0 and bar.x + bar.width <= 100 for each in drawn.lanes for bar in each.bars)


def test_a_label_stands_beside_its_bar_or_within_it_or_is_left_out():
    short = draw(waterfall(at((0, ACCEPTED), (0, PLACED), (9, READ), state=State.RUNNING)))
    only = StepFailed(2, 1, "status 503", final=True, cause=Cause.STATUS, answer=BUSY)
    told = at((0, ACCEPTED), (0, PLACED), (9, READ), (60_000, only),
              (60_000, Settled(State.FAILED, "no")), state=State.FAILED)  # fmt: skip
    (bar,) = next(each for each in draw(waterfall(told)).lanes if each.lane.number == 2).bars

    assert next(each for each in short.lanes if each.lane.number == 1).bars[-1].place == "beside"
    assert (bar.place, bar.label) == ("within", "503")


def test_the_axis_has_a_few_round_times():
    for took_ms, last in (
        (7, "6 ms"),
        (1_300, "1 s"),
        (95_000, "1 min 20 s"),
        (7_200_000, "1 h 30 min"),
    ):
        told = at((0, ACCEPTED), state=State.ACCEPTED, now_ms=BEGIN_MS + took_ms)
        marks = draw(waterfall(told)).marks
        assert (marks[0].text, marks[-1].text) == ("0", last)
        assert 3 <= len(marks) <= 6


def test_the_placement_says_who_was_asked_and_how_old_the_answer_was():
    told = at((0, ACCEPTED), (40, PLACED), (140, READ), state=State.RUNNING)

    assert placing_lines(told) == [
        ("asked", "the balancer, when the turn of the run came: 40 ms after its acceptance"),
        ("said", "this node"),
        ("placed", "here, T+0.04s"),
        ("first step", "it began 92 ms after the answer"),
    ]


def test_the_placement_says_what_came_of_an_offer():
    there = Placed("2", "the balancer named node 2", cause=Cause.BALANCER)
    back = Placed("1", "node 2 refused it: status 503", True, Cause.OFFER_REFUSED)
    told = at((0, ACCEPTED), (1, there), (2, Offered("2", 1)), (9, back), state=State.RUNNING)

    assert placing_lines(told)[1:] == [
        ("said", "node 2"),
        ("chosen", "node 2, T+0.001s"),
        ("offered", "to node 2, T+0.002s"),
        ("came of it", "node 2 refused it: status 503; it may have executed the run, too"),
        ("placed", "here, T+0.009s"),
    ]


def test_without_the_flow_the_lanes_are_the_steps_that_have_facts():
    told = msgspec.structs.replace(
        at((0, ACCEPTED), (0, PLACED), (9, READ), state=State.RUNNING), flow=None
    )

    assert [each.number for each in waterfall(told).lanes] == [None, 1]
    assert (told.id, FLOW.id) == (RUN, "7")
