"""Computes the salt of a segment from the checksums of its frames, if its headers are lost.

A CRC-32 is linear, so one complete frame is enough to compute a salt of 32 bits that gives the same
checksums as the original salt of 64 bits. If a second frame is valid with this salt, the salt is
wrong with a probability of one in four billion.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice

from fractal_rm.adapters.log import frames

_BITS = 32
_TRIES = 16  # how many frames are tried: the first ones may be damaged, too


def salt_in(data: bytes) -> int | None:
    """A salt that makes at least two frames of a segment valid; None: none was found."""
    for place in islice(frames.places(data), _TRIES):
        crcs = frames.crcs_at(data, place)
        if crcs is None:
            continue
        crc_of_salt, stored_crc = crcs
        salt = _solve(crc_of_salt, stored_crc)
        valid_frames = frames.all_valid_after(data, salt=salt, place=place)
        if len(list(islice(valid_frames, 2))) == 2:
            return salt
    return None


def _solve(crc_of_salt: Callable[[int], int], crc: int) -> int:
    """Compute the salt of 32 bits that gives the checksum ``crc``, by Gaussian elimination."""
    crc_of_zero = crc_of_salt(0)
    # The number of the highest changed bit -> (the changed bits of the CRC, the salt bits that
    # change them).
    rows: dict[int, tuple[int, int]] = {}
    for bit in range(_BITS):
        changed, salt = _reduced(crc_of_salt(1 << bit) ^ crc_of_zero, 1 << bit, rows)
        rows[changed.bit_length()] = changed, salt
    _, salt = _reduced(crc ^ crc_of_zero, 0, rows)
    return salt


def _reduced(crc: int, salt: int, rows: dict[int, tuple[int, int]]) -> tuple[int, int]:
    while (row := rows.get(crc.bit_length())) is not None:
        row_crc, row_salt = row
        crc, salt = crc ^ row_crc, salt ^ row_salt
    return crc, salt
