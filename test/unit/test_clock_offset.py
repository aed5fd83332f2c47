"""How far the clock of another machine is ahead, and how exact this is."""

from __future__ import annotations

from math import floor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.clock_offset import ClockOffset, clock_offset, offset_text

HOUR_MS = 3_600_000


@given(
    ahead_ms=st.integers(-10 * HOUR_MS, 10 * HOUR_MS),
    there_ms=st.floats(0, 5_000),
    back_ms=st.floats(0, 5_000),
    asked_ms=st.floats(0, 2e12),
)
def test_the_true_offset_is_within_the_stated_uncertainty(ahead_ms, there_ms, back_ms, asked_ms):
    time_ms = floor(asked_ms + there_ms + ahead_ms)  # clocks show whole milliseconds
    offset = clock_offset(time_ms, floor(asked_ms), there_ms + back_ms)
    assert abs(offset.ms - ahead_ms) <= offset.uncertain_ms + 0.01


@pytest.mark.parametrize(
    ("ms", "uncertain_ms", "text"),
    [
        (HOUR_MS, 1.2, "+1 h"),
        (HOUR_MS + 200, 1.2, "+1 h"),
        (-HOUR_MS * 1.5, 30, "-1.5 h"),
        (90_000, 5, "+1.5 min"),
        (-300, 60, "-0.3 s"),
        (-312.4, 1.5, "-0.31 s"),
        (-312.4, 1.0, "-0.312 s"),
        (2.2, 1.4, "0.00 s"),
        (40, 60, "0.0 s"),
        (-40, 60, "0.0 s"),
        (12_345, 200, "+12 s"),
        (12_345, 2_400, "+10 s"),
        (59_990, 200, "+1 min"),
        (0, 1.0, "0.000 s"),
    ],
)
def test_an_offset_is_shown_with_the_digits_that_are_known(ms, uncertain_ms, text):
    assert offset_text(ClockOffset(ms, uncertain_ms)) == text
