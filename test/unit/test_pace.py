"""How many runs are worth having in flight."""

from __future__ import annotations

import pytest

from fractal_rm.engine.queue.pace import FEW, MORE_IN_A_TURN, Pace


def beginning(pace: Pace, in_flight: int) -> int:
    """How many begin until the pace says no."""
    before = in_flight
    while in_flight < 10_000 and pace.may_begin(in_flight):
        pace.begins(in_flight)
        in_flight += 1
    return in_flight - before


def test_few_begin_at_once_whoever_is_slow():
    pace = Pace(lambda: None)
    assert beginning(pace, 0) == FEW
    pace.answers = FEW
    pace.turn(FEW)
    assert beginning(pace, FEW - 5) == 5


@pytest.mark.parametrize("answers", [0, 1, FEW // 8 - 1])
def test_more_begin_in_each_turn_while_components_are_slow(answers):
    pace, in_flight = Pace(lambda: None), FEW
    for _ in range(100):
        pace.answers = answers
        pace.turn(in_flight)
        in_flight += beginning(pace, in_flight)
    assert in_flight == FEW + 100 * MORE_IN_A_TURN


def test_no_more_begin_where_one_in_eight_has_waited_for_this_node():
    pace = Pace(lambda: None)
    pace.answers = 25
    pace.turn(200)
    assert beginning(pace, 200) == 0
    pace.answers = 24
    pace.turn(200)
    assert beginning(pace, 200) == MORE_IN_A_TURN


def test_a_turn_without_an_answer_is_a_quiet_one():
    pace = Pace(lambda: None)
    assert pace.turn(FEW)
    pace.answers = 1
    assert not pace.turn(FEW)
