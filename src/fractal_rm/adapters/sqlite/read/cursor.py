"""Cursors: where a search goes on in each journal.

A run gets its number when it is copied from the log into the history. So a place in a journal has
two parts. Runs that were numbered when the search began are found by their numbers. Other runs,
which are newer, are found by their ids.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from zlib import crc32

import msgspec

from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.engine.ports import WrongCursor

MAX_CHARS = 4_000
_LAST = (1 << 63) - 1


class Place(msgspec.Struct, frozen=True, array_like=True):
    """Where a search goes on in one journal.

    The newest first: runs with a number between ``floor`` and ``number`` (both excluded) whose id
    is less than ``run_id`` remain, and all runs with the number ``floor`` or less. If ``number`` is
    None, runs without a number whose id is less than ``run_id`` remain, too.

    The oldest first: runs with a number above ``number`` remain, and runs without a number. Those
    without a number or with one above ``floor`` have been returned if their id is at most
    ``run_id``.
    """

    number: int | None = None
    floor: int = 0
    run_id: str | None = None


class _Cursor(msgspec.Struct, array_like=True, forbid_unknown_fields=True):
    """The content of a cursor. ``question`` is a checksum of the filter and the order."""

    question: int
    places: dict[str, Place]


def encode_cursor(places: dict[str, Place], run_filter: RunFilter, *, oldest_first: bool) -> str:
    """Return the text of a cursor. ``places`` has a place for each journal that has more runs."""
    content = _Cursor(_question(run_filter, oldest_first), places)
    return urlsafe_b64encode(msgspec.json.encode(content)).decode().rstrip("=")


def decode_cursor(text: str, run_filter: RunFilter, *, oldest_first: bool) -> dict[str, Place]:
    """Return the places of a cursor. Raises WrongCursor."""
    if len(text) > MAX_CHARS:
        raise WrongCursor("the cursor is longer than any that a list has returned")
    try:
        padded = text.encode("ascii") + b"=" * (-len(text) % 4)
        cursor = msgspec.json.decode(urlsafe_b64decode(padded), type=_Cursor)
    except (binascii.Error, ValueError, msgspec.MsgspecError, RecursionError) as error:
        raise WrongCursor(
            "the cursor is not one that a list has returned; begin again without a cursor"
        ) from error
    if cursor.question != _question(run_filter, oldest_first):
        raise WrongCursor(
            "the cursor belongs to a list with other conditions or another order; repeat the"
            " conditions of that list, or begin again without a cursor"
        )
    for place in cursor.places.values():
        if not (0 <= place.floor <= _LAST and 0 <= (place.number or 0) <= _LAST):
            raise WrongCursor("the cursor has an impossible number; begin again without a cursor")
    return cursor.places


def _question(run_filter: RunFilter, oldest_first: bool) -> int:
    return crc32(msgspec.json.encode((run_filter, oldest_first)))
