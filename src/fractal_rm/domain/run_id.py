"""Names for runs: 26 characters that sort by time.

The ULID form: 48 bits of milliseconds and 80 of chance in Crockford's base 32, so that the newest
runs stand together in the journal and in a list.
"""

from __future__ import annotations

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]


def run_id(now_ms: int, chance: bytes) -> str:
    """Make an id. ``chance`` is 10 random bytes."""
    value = (now_ms & 0xFFFFFFFFFFFF) << 80 | int.from_bytes(chance, "big")
    return "".join([_PAIRS[value >> shift & 1023] for shift in range(120, -10, -10)])
