"""Names for runs: 26 characters that sort by time.

The ULID form: 48 bits of milliseconds and 80 of chance in Crockford's base 32, so that the newest
runs stand together in the journal and in a list.
"""

from __future__ import annotations

import re

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FORM = re.compile(f"[{_DIGITS}]{{26}}")
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]


def is_run_id(text: str) -> bool:
    """Whether a text is a name that `run_id` could have made."""
    return _FORM.fullmatch(text) is not None


def run_id(now_ms: int, chance: bytes) -> str:
    """Make an id. ``chance`` is 10 random bytes."""
    value = (now_ms & 0xFFFFFFFFFFFF) << 80 | int.from_bytes(chance, "big")
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -10, -10)])
