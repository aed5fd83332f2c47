"""`Pace`: a slow node begins fewer runs."""

from __future__ import annotations

import pytest

from fractal_rm.engine.queue.pace import ALWAYS_ALLOWED, EXTRA_PER_TURN, Pace


def begin_all(pace: Pace, in_flight: int) -> int:
    """Begin all runs that may begin now. Returns their number."""
    in_flight_before = in_flight
    while in_flight < 10_000 and pace.may_begin(in_flight):
        pace.count_begin(in_flight)
        in_flight += 1
    return in_flight - in_flight_before


def test_up_to_48_runs_may_always_be_in_flight():
    pace = Pace(lambda: None)
    assert begin_all(pace, 0) == ALWAYS_ALLOWED
    pace.answers = ALWAYS_ALLOWED
    pace.end_turn(ALWAYS_ALLOWED)
    assert begin_all(pace, ALWAYS_ALLOWED - 5) == 5


@pytest.mark.parametrize("answers", [0, 1, ALWAYS_ALLOWED // 8 - 1])
def test_eight_more_runs_begin_in_each_turn_while_components_are_slow(answers):
    pace, in_flight = Pace(lambda: None), ALWAYS_ALLOWED
    for _ in range(100):
        pace.answers = answers
        pace.end_turn(in_flight)
        in_flight += begin_all(pace, in_flight)
    assert in_flight == ALWAYS_ALLOWED + 100 * EXTRA_PER_TURN


def test_no_run_begins_if_one_in_eight_runs_got_an_answer_in_the_last_turn():
    pace = Pace(lambda: None)
    pace.answers = 25
    pace.end_turn(200)
    assert begin_all(pace, 200) == 0
    pace.answers = 24
    pace.end_turn(200)
    assert begin_all(pace, 200) == EXTRA_PER_TURN


def test_end_turn_returns_whether_the_turn_had_no_answer():
    pace = Pace(lambda: None)
    assert pace.end_turn(ALWAYS_ALLOWED)
    pace.answers = 1
    assert not pace.end_turn(ALWAYS_ALLOWED)
