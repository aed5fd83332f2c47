"""A histogram of durations. Adding a value is one ``append``; the values are sorted in later."""

from __future__ import annotations

from bisect import bisect_right
from operator import add

# The upper bounds of the buckets in milliseconds, and the same in seconds, as text.
BOUNDS_MS = (1, 2.5, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 100_000)
BOUNDS = (*(f"{bound / 1000:g}" for bound in BOUNDS_MS), "+Inf")


class Histogram:
    """``added`` has the values in milliseconds that `fold` has not sorted into buckets yet.

    The owner appends to ``added``, and calls `fold` often enough that the list stays short.
    """

    __slots__ = ("_cumulative", "_sum_ms", "added")

    def __init__(self) -> None:
        self.added: list[float] = []
        self._cumulative = [0] * len(BOUNDS)
        self._sum_ms = 0.0

    def fold(self) -> None:
        """Sort the added values into the buckets."""
        added = self.added
        if added:
            self._sum_ms += sum(added)
            added.sort()  # faster than a search among the bounds for each value
            not_above = [bisect_right(added, bound) for bound in BOUNDS_MS]
            self._cumulative = list(map(add, self._cumulative, (*not_above, len(added))))
            added.clear()

    @property
    def count(self) -> int:
        """How many values were sorted in."""
        return self._cumulative[-1]

    @property
    def sum_s(self) -> float:
        """The sum of these values, in seconds."""
        return self._sum_ms / 1000

    def cumulative(self) -> list[int]:
        """For each of `BOUNDS`, how many values are not above it."""
        return self._cumulative
