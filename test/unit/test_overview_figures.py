"""The figures of the overview are made from counts by minute and hour."""

from __future__ import annotations

import msgspec
import pytest

from fractal_rm.domain.duration_counts import added, quantile_ms
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Minute
from fractal_rm.web.pages.frame.text_filters import about, rate
from fractal_rm.web.pages.numbers.figures import (
    flow_figures,
    latency_of,
    p99_steps,
    per_second_now,
    trouble_now,
)
from fractal_rm.web.pages.numbers.recent import HOUR_MS, MINUTE_MS, Series

NOW_MS = 1_795_960_950_000  # half a minute after a full minute
THIS_MINUTE_MS = NOW_MS // MINUTE_MS * MINUTE_MS


def minutes_ago(ago: int, state: State, runs: int, flow: str | None = "1", durations=()) -> Minute:
    return Minute(THIS_MINUTE_MS - ago * MINUTE_MS, flow, state, runs, list(durations))


def last_hour(*counts: Minute) -> Series:
    return msgspec.structs.replace(Series.before(NOW_MS, MINUTE_MS, 60), counts=list(counts))


def last_day(*trouble: tuple[int, int]) -> Series:
    """Hours with runs in trouble: how many hours ago, and how many runs."""
    this_hour_ms = NOW_MS // HOUR_MS * HOUR_MS
    counts = [Minute(this_hour_ms - ago * HOUR_MS, "1", State.FAILED, n) for ago, n in trouble]
    return msgspec.structs.replace(Series.before(NOW_MS, HOUR_MS, 24), counts=counts)


def test_a_quantile_lies_within_the_bounds_of_its_power_of_two():
    counts = [0, 0, 0, 0, 0, 0, 0, 98, 0, 0, 2]  # 98 took 64 to 128 ms, and 2 took 512 to 1,024 ms
    median, p99 = quantile_ms(counts, 0.5), quantile_ms(counts, 0.99)
    assert median is not None
    assert p99 is not None
    assert 64 <= median <= 128
    assert 512 <= p99 <= 1_024
    assert quantile_ms([5], 0.99) < 1  # all took less than a millisecond
    assert quantile_ms([], 0.5) is None
    assert quantile_ms([0, 0], 0.5) is None


def test_counts_of_different_lengths_are_added():
    assert added([[1], [0, 2, 3], []]) == [1, 2, 3]


def test_a_rate_is_that_of_the_last_full_minute_and_the_current_one():
    begin_ms = THIS_MINUTE_MS - 59 * MINUTE_MS
    numbers = [0] * 58 + [60, 30]
    assert per_second_now(numbers, begin_ms, NOW_MS) == 1.0  # 90 runs in 90 seconds
    assert per_second_now(numbers, begin_ms, begin_ms - HOUR_MS) == 1.5  # the clock was set back


@pytest.mark.parametrize(
    ("per_s", "text"),
    [(0, "0"), (412.4, "412/s"), (1_234, "1,234/s"), (0.3, "0.3/s"), (0.05, "3/min"),
     (0.0005, "1.8/h")],
)  # fmt: skip
def test_a_rate_has_the_unit_in_which_it_is_easy_to_read(per_s, text):
    assert rate(per_s) == text


def test_an_estimated_duration_has_two_digits():
    assert [about(each) for each in (None, 0.44, 84.4, 1_870)] == ["-", "0.4 ms", "84 ms", "1.9 s"]


def test_trouble_began_with_the_first_failure_after_which_failures_went_on():
    failing = [minutes_ago(ago, State.FAILED, 1) for ago in (0, 4, 8, 30)]
    trouble = trouble_now(
        last_hour(minutes_ago(1, State.SUCCEEDED, 3), *failing), last_day(), NOW_MS
    )
    assert trouble is not None
    assert trouble.since_ms == THIS_MINUTE_MS - 8 * MINUTE_MS  # that of 30 minutes ago was over
    assert (trouble.runs, trouble.ended) == (2, 5)


def test_trouble_that_is_older_than_an_hour_began_in_the_first_hour_with_trouble():
    minutes = last_hour(*[minutes_ago(ago, State.FAILED, 1) for ago in range(0, 60, 3)])
    trouble = trouble_now(minutes, last_day((0, 9), (1, 9), (2, 9), (3, 9), (5, 9)), NOW_MS)
    assert trouble is not None
    assert trouble.since_ms == NOW_MS // HOUR_MS * HOUR_MS - 3 * HOUR_MS


def test_failures_that_are_over_and_dead_letters_are_no_trouble_now():
    over = minutes_ago(9, State.FAILED, 5)
    letter = minutes_ago(0, State.DEAD, 5, flow=None)
    assert trouble_now(last_hour(over, letter), last_day(), NOW_MS) is None


def test_only_runs_that_were_executed_here_say_how_long_runs_take():
    durations = [0, 0, 0, 0, 1]
    executed = minutes_ago(0, State.SUCCEEDED, 1, durations=durations)
    sent = minutes_ago(0, State.HANDED_OFF, 1, durations=[0] * 20 + [1])
    assert latency_of([executed, sent]) == latency_of([executed])
    assert p99_steps(last_hour(executed, sent))[-1] == latency_of([executed]).p99_ms
    assert latency_of([sent]).p99_ms is None


def test_flows_with_trouble_come_first_then_those_with_the_most_runs():
    minutes = last_hour(
        minutes_ago(1, State.ACCEPTED, 50, flow="busy"),
        minutes_ago(1, State.ACCEPTED, 2, flow="bad"),
        minutes_ago(1, State.FAILED, 1, flow="bad"),
    )
    figures = flow_figures(["idle", "bad"], minutes, last_day((2, 4)))
    assert [each.flow for each in figures] == ["bad", "busy", "idle", "1"]
    assert (figures[0].accepted, figures[0].trouble) == (2, 1)
    assert figures[-1].by_hour[-3] == (0, 4)
