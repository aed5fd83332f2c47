"""Names for runs: 26 characters that sort by time.

The ULID form: 48 bits of milliseconds and 80 of chance in Crockford's base 32, so that the newest
runs stand together in the journal and in a list.
"""

from __future__ import annotations

import re
from functools import lru_cache

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FORM = re.compile(f"[{_DIGITS}]{{26}}")
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]


def is_run_id(text: str) -> bool:
    """Whether a text is a name that `run_id` could have made."""
    return _FORM.fullmatch(text) is not None


def run_id(now_ms: int, chance: bytes) -> str:
    """Make an id. ``chance`` is 10 random bytes."""
    high, low = int.from_bytes(chance[:5], "big"), int.from_bytes(chance[5:], "big")
    return _moment(now_ms & 0xFFFFFFFFFFFF) + _digits(high) + _digits(low)


def _digits(bits: int) -> str:
    """40 bits as 8 digits."""
    pairs = _PAIRS
    return (
        pairs[bits >> 30] + pairs[bits >> 20 & 1023] + pairs[bits >> 10 & 1023] + pairs[bits & 1023]
    )


@lru_cache(maxsize=1)
def _moment(ms: int) -> str:
    """48 bits as 10 digits, the same for all runs of a millisecond."""
    return _PAIRS[ms >> 40] + _digits(ms & 0xFFFFFFFFFF)
