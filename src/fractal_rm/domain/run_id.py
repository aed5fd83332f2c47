"""Ids of runs: 26 characters, sorted in the order in which the runs were accepted.

An id is a ULID: 48 bits of milliseconds and 80 random bits, in the base 32 of Crockford. Because
of the order, the newest runs are next to each other in the journal and in lists.

If a node returns a run to its sender (`domain.handoff`), the run has already ended as handed off in
the journal of its sender. So there the returned run is a second run, a *continuation*. Its id is
the first id and ``~2``. Calls of a continuation have the same ``Idempotency-Key`` as calls of the
first run.
"""

from __future__ import annotations

import re
from collections.abc import Callable

_DIGITS = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
ID_LENGTH = 26  # without the suffix of a continuation
_CONTINUATION = "~2"
_FORM = re.compile(f"[{_DIGITS}]{{{ID_LENGTH}}}({_CONTINUATION})?")
_PAIRS = [a + b for a in _DIGITS for b in _DIGITS]


def is_run_id(text: str) -> bool:
    """Whether a text has the form of a run id."""
    return _FORM.fullmatch(text) is not None


def continuation_of(run_id: str) -> str:
    """The id that a run has after it was returned to its sender."""
    return run_id[:ID_LENGTH] + _CONTINUATION


def is_continuation(run_id: str) -> bool:
    """Whether a run was returned to its sender."""
    return run_id.endswith(_CONTINUATION)


class RunIds:
    """Makes ids. Each id is greater than the id before it.

    Ids of the same millisecond have the same first 70 random bits; a counter replaces the last 10
    bits. If the counter is full, the next id has the next millisecond. While the clock shows an
    earlier time than the last id, new ids have the time of the last id.

    ``random_bytes(n)`` returns ``n`` random bytes.
    """

    def __init__(self, random_bytes: Callable[[int], bytes]) -> None:
        self._random_bytes = random_bytes
        self._last_ms = -1
        self._first_digits = ""
        self._count = len(_PAIRS)

    def continue_after(self, run_id: str) -> None:
        """Make all further ids greater than ``run_id``, an id that an earlier process made."""
        if is_run_id(run_id):
            self._last_ms = max(self._last_ms, _ms_of(run_id))
            self._count = len(_PAIRS)

    def next(self, id_ms: int) -> str:
        """Make the id of a run that is accepted at ``id_ms`` on the id clock (`domain.steady`)."""
        if id_ms > self._last_ms or self._count == len(_PAIRS):
            self._last_ms, self._count = max(id_ms, self._last_ms + 1), 0
            self._first_digits = _first_digits(
                self._last_ms, int.from_bytes(self._random_bytes(9), "big")
            )
        counter_digits = _PAIRS[self._count]
        self._count += 1
        return self._first_digits + counter_digits


def _ms_of(run_id: str) -> int:
    """The time in an id, in milliseconds: its first 10 digits."""
    ms = 0
    for digit in run_id[:10]:
        ms = ms << 5 | _DIGITS.index(digit)
    return ms


def _first_digits(id_ms: int, random_bits: int) -> str:
    """The first 24 digits of an id: 10 digits of time (48 bits) and 14 random digits (70 bits)."""
    bits = (id_ms & 0xFFFFFFFFFFFF) << 70 | random_bits & (1 << 70) - 1
    return "".join([_PAIRS[bits >> shift & 1023] for shift in range(110, -1, -10)])
