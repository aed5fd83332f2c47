"""The salt of a segment whose headers are lost, from the checksums of its frames.

A CRC is linear and keeps 32 of the 64 bits of a salt. These 32 bits can be computed from any
complete frame. A salt that is valid for two frames is wrong with a probability of one in four
billion.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from fractal_rm.adapters.log import frames

_BITS = 32
_TRIES = 16  # as the first frames may be damaged themselves


def salt_in(data: bytes) -> int | None:
    """A salt with which at least two frames of a segment are valid; None: not found."""
    for place in islice(frames.places(data), _TRIES):
        crcs = frames.crcs_at(data, place)
        if crcs is None:
            continue
        salt = _solve(*crcs)
        valid = frames.all_valid_after(data, salt=salt, place=place)
        if len(list(islice(valid, 2))) == 2:
            return salt
    return None


def _solve(crc_of: Callable[[int], int], wanted: int) -> int:
    """The salt of 32 bits that gives this checksum, by Gaussian elimination."""
    none = crc_of(0)
    rows: dict[int, tuple[int, int]] = {}  # by highest bit: change of the crc, and its salt bits
    for bit in range(_BITS):
        changed, salt = _reduced(crc_of(1 << bit) ^ none, 1 << bit, rows)
        rows[changed.bit_length()] = changed, salt
    return _reduced(wanted ^ none, 0, rows)[1]


def _reduced(crc: int, salt: int, rows: dict[int, tuple[int, int]]) -> tuple[int, int]:
    while (row := rows.get(crc.bit_length())) is not None:
        crc, salt = crc ^ row[0], salt ^ row[1]
    return crc, salt
