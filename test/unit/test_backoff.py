"""The backoff between failed attempts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.domain.backoff import backoff_s


def test_the_backoff_doubles_up_to_a_maximum():
    pauses = [backoff_s(tries, 0.2, 1.0, 1.0) for tries in range(1, 6)]
    assert pauses == [0.2, 0.4, 0.8, 1.0, 1.0]


@pytest.mark.parametrize(("fraction", "pause_s"), [(0.0, 0.5), (0.5, 0.75), (1.0, 1.0)])
def test_half_of_the_backoff_is_jitter(fraction, pause_s):
    assert backoff_s(1, 1.0, 30.0, fraction) == pause_s


@given(st.integers(1, 10**9), st.floats(0, 1))
def test_the_backoff_is_at_most_the_maximum_after_any_number_of_tries(tries, fraction):
    assert 0 < backoff_s(tries, 0.2, 10.0, fraction) <= 10.0
