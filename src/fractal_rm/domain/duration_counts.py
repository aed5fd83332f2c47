"""Quantiles of durations that are counted by powers of two, as in `engine.ports.Minute`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import zip_longest


def added(counts: Iterable[Sequence[int]]) -> list[int]:
    """The sum of several counts: item n is the number of durations with n bits."""
    return [sum(column) for column in zip_longest(*counts, fillvalue=0)]


def quantile_ms(counts: Sequence[int], share: float) -> float | None:
    """The duration in milliseconds that the fraction ``share`` of the durations does not exceed.

    Item n of ``counts`` is the number of durations from 2**(n-1) to 2**n ms. Within these bounds,
    the durations are assumed to be spread evenly on a logarithmic scale, so the result is wrong by
    less than a factor of two. None: there are no durations.
    """
    total = sum(counts)
    if not total:
        return None
    wanted, passed = share * total, 0
    last = max(bits for bits, count in enumerate(counts) if count)
    for bits, count in enumerate(counts):
        if bits == last or (count and passed + count >= wanted):
            part = min(1.0, max(0.0, (wanted - passed) / count))
            return part if bits == 0 else 2 ** (bits - 1 + part)
        passed += count
    return None
