"""How cases write lengths of time."""

from __future__ import annotations

_UNITS = (("h", 3_600_000), ("m", 60_000), ("s", 1000))


def in_words(ms: int) -> str:
    """So many milliseconds as a flow would write them: ``0ms``, ``750ms``, ``2m``, ``1h``."""
    for unit, size in _UNITS:
        if ms and ms % size == 0:
            return f"{ms // size}{unit}"
    return f"{ms}ms"
