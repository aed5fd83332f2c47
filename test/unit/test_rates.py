"""Rates such as 10/s: how they are read, and how evenly they let calls begin."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.rate import SLACK_S, UNITS_S, Rate, TokenBucket, read_rate, similar_rate

RATES = st.builds(Rate, st.integers(1, 5_000), st.sampled_from(sorted(UNITS_S)))


@pytest.mark.parametrize("text", ["10/s", "1/min", "100000/h"])
def test_a_rate_is_read_and_written_in_the_same_way(text):
    assert str(read_rate(text)) == text


@pytest.mark.parametrize(
    ("text", "similar"),
    [
        ("10/m", "10/min"), ("10/sec", "10/s"), ("10/hours", "10/h"), ("10 / S", "10/s"),
        ("10/minutes", "10/min"), ("0/s", None), ("10", None), ("/s", None), ("10/day", None),
        ("1.5/s", None), ("100001/s", None), ("٣/s", None), ("-1/s", None), ("10/s/s", None),
    ],
)  # fmt: skip
def test_a_text_that_is_not_a_rate_has_a_suggestion_if_it_is_clear_what_is_meant(text, similar):
    assert read_rate(text) is None
    assert similar_rate(text) == similar


@given(RATES, st.lists(st.floats(0, 3), min_size=1, max_size=60))
def test_no_time_has_more_tokens_than_the_rate_allows(rate, pauses):
    """However requests come, each stretch of t seconds has at most rate * (t + slack) + 1."""
    bucket, now_s, taken = TokenBucket(rate), 1_000.0, []
    for pause_s in pauses:
        now_s += pause_s * rate.interval_s
        if bucket.wait_s(now_s) == 0:
            bucket.take(now_s)
            taken.append(now_s)
    for first, begin_s in enumerate(taken):
        for count, end_s in enumerate(taken[first:], start=1):
            assert count <= (end_s - begin_s + SLACK_S) / rate.interval_s + 1 + 1e-6


@given(RATES, st.floats(0, SLACK_S * 0.99), st.integers(2, 50))
def test_the_rate_is_reached_although_each_timer_is_late(rate, late_s, count):
    bucket, now_s = TokenBucket(rate), 1_000.0
    bucket.take(now_s)
    for _ in range(count):
        wait_s = bucket.wait_s(now_s)
        now_s += wait_s + late_s if wait_s else 0
        bucket.take(now_s)
    assert now_s - 1_000 <= count * rate.interval_s + late_s + 1e-6


def test_a_bucket_after_a_restart_waits_as_if_a_token_had_been_taken_just_before_the_end():
    bucket = TokenBucket(Rate(6, "min"), last_s=100)
    assert bucket.wait_s(103) == 7
    assert bucket.wait_s(110) == 0


def test_another_rate_applies_at_once():
    bucket = TokenBucket(Rate(1, "h"))
    bucket.take(0)
    bucket.change(Rate(10))
    assert bucket.wait_s(0) == pytest.approx(0.1)
