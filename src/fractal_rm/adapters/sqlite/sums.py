"""The checksum of a row: it covers every other value of the row, with its type.

32 bits, which find what a disk does, not what a forger does. Statements that change a row in place
call it as ``row_sum(value, …)``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

_encode = msgspec.json.Encoder().encode


def row_sum(*values: Any) -> int:
    """The checksum of values, as a row has them in their order."""
    return crc32(_encode(values))


def holds(row: Sequence[Any]) -> bool:
    """Whether the last value of a row is the checksum of those before it."""
    if float in map(type, row):  # no row has one, and JSON has no infinity
        return False
    try:
        return bool(row_sum(*row[:-1]) == row[-1])
    except (UnicodeError, msgspec.MsgspecError):  # what is no text stands where a text should
        return False


def summed(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row with its checksum."""
    return *row, crc32(_encode(row))


def add_row_sum(db: sqlite3.Connection) -> None:
    """Let the statements of a connection call it."""
    db.create_function("row_sum", -1, row_sum, deterministic=True)


def decode_any(text: bytes) -> str:
    """For `text_factory`: a text that is damaged is read all the same, and does not hold."""
    return text.decode("utf-8", "surrogateescape")
