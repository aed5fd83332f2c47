"""Reads and writes durations of the flow language: ``800ms``, ``1.5s``, ``2m``, ``1h``."""

from __future__ import annotations

import re

DURATION_HINT = "a length of time such as 800ms, 5s, 2m or 1h, at most 24h"

_DURATION = re.compile(r"([0-9]{1,8}(?:\.[0-9]{1,6})?)(ms|s|m|h)")
_MS = {"h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}  # largest first
_MAX_MS = 24 * 3_600_000


def duration_ms(text: str) -> int | None:
    """The duration in milliseconds; None if the text is not a duration from 1 ms to 24 h."""
    match = _DURATION.fullmatch(text)
    if match is None:
        return None
    number, unit = match.groups()
    ms = round(float(number) * _MS[unit])
    return ms if 1 <= ms <= _MAX_MS else None


def duration_text(ms: int) -> str:
    """A duration in the largest unit that gives a whole number: ``0ms``, ``750ms``, ``2m``."""
    unit = next(unit for unit, size in _MS.items() if size == 1 or (ms and ms % size == 0))
    return f"{ms // _MS[unit]}{unit}"
