"""The salt of a segment whose headers are lost, from the checksums of its frames.

A CRC is linear: of the 64 bits of a salt it keeps 32, and which 32 can be computed from any frame
that is whole. A salt that two frames agree upon is right but for one time in four billion.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from fractal_rm.adapters.log import frames

_BITS = 32
_TRIES = 16  # frames that may be damaged themselves


def salt_in(data: bytes) -> int | None:
    """A salt under which at least two frames of a segment hold; None: it is not known."""
    for place in islice(frames.places(data), _TRIES):
        crcs = frames.crcs_at(data, place)
        if crcs is None:
            continue
        salt = _solve(*crcs)
        held = frames.all_behind(data, salt=salt, place=place)
        if len(list(islice(held, 2))) == 2:
            return salt
    return None


def _solve(crc_of: Callable[[int], int], wanted: int) -> int:
    """The salt of 32 bits that gives a checksum, by elimination."""
    none = crc_of(0)
    rows: dict[int, tuple[int, int]] = {}  # by highest bit: what bits of the salt change
    for bit in range(_BITS):
        changed, salt = _reduced(crc_of(1 << bit) ^ none, 1 << bit, rows)
        rows[changed.bit_length()] = changed, salt
    return _reduced(wanted ^ none, 0, rows)[1]


def _reduced(crc: int, salt: int, rows: dict[int, tuple[int, int]]) -> tuple[int, int]:
    while (row := rows.get(crc.bit_length())) is not None:
        crc, salt = crc ^ row[0], salt ^ row[1]
    return crc, salt
