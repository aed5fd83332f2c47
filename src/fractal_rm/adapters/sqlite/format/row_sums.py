"""The checksum of a row: a CRC-32 over all other values of the row, with their types.

The checksum detects damage by a disk, but no intended change. Statements that change a row in place
compute it in SQL as ``row_sum(value, …)``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

_encode = msgspec.json.Encoder().encode


def row_sum(*values: Any) -> int:
    """Return the checksum of values, in the order of the row's columns."""
    return crc32(_encode(values))


def checksum_matches(row: Sequence[Any]) -> bool:
    """Return whether the last value of a row is the checksum of the values before it."""
    if float in map(type, row):  # damage: no column has floats, and JSON has no infinity
        return False
    try:
        return bool(row_sum(*row[:-1]) == row[-1])
    except (UnicodeError, msgspec.MsgspecError):  # a value is damaged
        return False


def with_checksum(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """Return a row with its checksum appended."""
    return *row, crc32(_encode(row))


def register_row_sum(db: sqlite3.Connection) -> None:
    """Register ``row_sum`` as an SQL function of a connection."""
    db.create_function("row_sum", -1, row_sum, deterministic=True)


def decode_damaged(text: bytes) -> str:
    """Decode text that may be invalid UTF-8. This is a `text_factory` of connections.

    Invalid text raises no error here. Later, the row of the text does not match its checksum.
    """
    return text.decode("utf-8", "surrogateescape")
