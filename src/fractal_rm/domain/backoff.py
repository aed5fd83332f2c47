"""Exponential backoff with jitter."""

from __future__ import annotations

_MAX_DOUBLINGS = 20


def backoff_s(tries: int, first_s: float, max_s: float, fraction: float) -> float:
    """The pause before the next try, in seconds, after ``tries`` failed tries (at least 1).

    The pause doubles with each try, from ``first_s`` up to ``max_s``. Half of it is jitter, so that
    nodes do not all retry at the same moment. ``fraction`` is a random number from 0 to 1.
    """
    full_s = min(max_s, first_s * 2 ** min(tries - 1, _MAX_DOUBLINGS))
    return full_s * (0.5 + fraction / 2)
