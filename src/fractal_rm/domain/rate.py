"""Rates, such as 10/s: how many runs or calls may begin in a time."""

from __future__ import annotations

import re

import msgspec

MAX_COUNT = 100_000
UNITS_S = {"s": 1, "min": 60, "h": 3600}
RATE_HINT = "a rate is a number, a slash, and s, min or h, such as 10/s"
# A timer fires late while the node is busy. A wait that is up to this much too long is made up for,
# so that the rate is reached.
SLACK_S = 0.05
_ROUNDING_S = 1e-6
_RATE = re.compile(r"(?P<count>[0-9]{1,9})/(?P<unit>[a-z]+)")


class Rate(msgspec.Struct, frozen=True):
    """``count`` in ``unit``, which is ``s``, ``min`` or ``h``."""

    count: int
    unit: str = "s"

    @property
    def interval_s(self) -> float:
        """The seconds between two of them."""
        return UNITS_S[self.unit] / self.count

    def __str__(self) -> str:
        return f"{self.count}/{self.unit}"


def read_rate(text: str) -> Rate | None:
    """Read a rate such as ``10/s``. None if it is not one, or not from 1 to MAX_COUNT."""
    match = _RATE.fullmatch(text)
    if match is None or match["unit"] not in UNITS_S:
        return None
    count = int(match["count"])
    return Rate(count, match["unit"]) if 1 <= count <= MAX_COUNT else None


def similar_rate(text: str) -> str | None:
    """The rate that a wrong text probably means, such as ``10/min`` for ``10/m``. Or None."""
    count, _, unit = text.replace(" ", "").partition("/")
    long_units = {"sec": "s", "second": "s", "m": "min", "minute": "min", "hour": "h", "hr": "h"}
    unit = unit.lower()
    known = unit if unit in UNITS_S else long_units.get(unit.rstrip("s"))
    rate = None if known is None else read_rate(f"{count}/{known}")
    return None if rate is None else str(rate)


class TokenBucket:
    """Spreads a rate evenly: one token becomes free in each interval, and is not kept for long.

    In any time of t seconds, at most ``count * (t + SLACK_S) + 1`` tokens are taken, where
    ``count`` is the rate per second. Times are in seconds on any clock that does not go back.
    ``last_s`` is when a token may have been taken last, for example before a restart.
    """

    __slots__ = ("_free_at_s", "rate")

    def __init__(self, rate: Rate, last_s: float | None = None) -> None:
        self.rate = rate
        self._free_at_s = float("-inf") if last_s is None else last_s + rate.interval_s

    def wait_s(self, now_s: float) -> float:
        """The seconds until a token is free. 0: a token is free now."""
        left_s = self._free_at_s - now_s
        return left_s if left_s > _ROUNDING_S else 0.0

    def take(self, now_s: float) -> None:
        """Take a token. `wait_s` must have returned 0."""
        is_late = now_s - self._free_at_s <= SLACK_S
        self._free_at_s = (self._free_at_s if is_late else now_s) + self.rate.interval_s

    def change(self, rate: Rate) -> None:
        """Apply another rate. A token is free at most one interval of the new rate later."""
        self._free_at_s += rate.interval_s - self.rate.interval_s
        self.rate = rate
