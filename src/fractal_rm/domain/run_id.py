"""Names for runs: 26 characters that sort by the order of their acceptance.

The ULID form: 48 bits of milliseconds and 80 of chance in Crockford's base 32, so that the newest
runs stand together in the journal and in a list.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_FORM = re.compile(f"[{_DIGITS}]{{26}}")
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]


def is_run_id(text: str) -> bool:
    """Whether a text is a name that `RunIds` could have made."""
    return _FORM.fullmatch(text) is not None


class RunIds:
    """Makes ids, each behind the one before it.

    Those of one millisecond share their chance and are counted; where there are more than can be
    counted, or time has gone back, it is the next millisecond that they have. ``chance`` draws so
    many random bytes.
    """

    def __init__(self, chance: Callable[[int], bytes]) -> None:
        self._chance = chance
        self._now_ms = -1
        self._shared = ""
        self._count = len(_PAIRS)

    def go_on_after(self, run_id: str) -> None:
        """What follows stands behind an id that an earlier process has made."""
        if is_run_id(run_id):
            self._now_ms = max(self._now_ms, _ms_of(run_id))
            self._count = len(_PAIRS)

    def next(self, id_ms: int) -> str:
        """The id of a run that is accepted now (milliseconds since 1970)."""
        if id_ms > self._now_ms or self._count == len(_PAIRS):
            self._now_ms, self._count = max(id_ms, self._now_ms + 1), 0
            self._shared = _shared(self._now_ms, int.from_bytes(self._chance(9), "big"))
        last = _PAIRS[self._count]
        self._count += 1
        return self._shared + last


def _ms_of(run_id: str) -> int:
    """The milliseconds in an id: its first 10 digits."""
    ms = 0
    for digit in run_id[:10]:
        ms = ms << 5 | _DIGITS.index(digit)
    return ms


def _shared(now_ms: int, chance: int) -> str:
    """The first 24 digits: 48 bits in 10 digits, and 70 of chance in 14."""
    bits = (now_ms & 0xFFFFFFFFFFFF) << 70 | chance & (1 << 70) - 1
    return "".join([_PAIRS[bits >> shift & 1023] for shift in range(110, -1, -10)])
