"""The checksum of a row: a CRC-32 over every other value of the row, with its type.

It finds damage by a disk, not by a forger. Statements that change a row in place compute it in SQL,
as ``row_sum(value, …)``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Any
from zlib import crc32

import msgspec

_encode = msgspec.json.Encoder().encode


def row_sum(*values: Any) -> int:
    """The checksum of values, in the order of the row's columns."""
    return crc32(_encode(values))


def sum_matches(row: Sequence[Any]) -> bool:
    """Whether the last value of a row is the checksum of those before it."""
    if float in map(type, row):  # no row has a float, and JSON has no infinity
        return False
    try:
        return bool(row_sum(*row[:-1]) == row[-1])
    except (UnicodeError, msgspec.MsgspecError):  # a text column contains something else
        return False


def with_sum(row: tuple[Any, ...]) -> tuple[Any, ...]:
    """A row with its checksum appended."""
    return *row, crc32(_encode(row))


def add_row_sum(db: sqlite3.Connection) -> None:
    """Make ``row_sum`` available to the statements of a connection."""
    db.create_function("row_sum", -1, row_sum, deterministic=True)


def decode_damaged(text: bytes) -> str:
    """A `text_factory` that accepts invalid UTF-8: the row then fails its checksum."""
    return text.decode("utf-8", "surrogateescape")
