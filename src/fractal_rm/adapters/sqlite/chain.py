"""The chain of checksums: each page's covers the page, its place, and the checksum before it.

A byte that flipped, a page that is missing, moved, or belongs to another run: the chain of that
run does not hold any more (G14).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from zlib import crc32

import msgspec

from fractal_rm.adapters.log import timed
from fractal_rm.adapters.log.blobs import BlobLost
from fractal_rm.adapters.log.timed import Read, Ref, Timed
from fractal_rm.domain.facts import AnyFact

Page = list[tuple[int, AnyFact]]  # facts and their moments, milliseconds since 1970

encode_page = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Page)


class ChainBroken(Exception):
    """Says which page does not hold."""


class Unreadable(ChainBroken):
    """A page holds, and this release cannot make facts of it."""


def start_of(run_id: str) -> int:
    """What stands before the checksum of a run's first page."""
    return crc32(run_id.encode())


def link(before: int, n: int, body: bytes) -> int:
    """The checksum of page ``n``: 32 bits, which find what a disk does, not what a forger does."""
    return crc32(body, crc32(b"%d\0" % n, before))


Rows = Iterable[tuple[int, bytes, int]]  # n, body, sum


def verified(run_id: str, rows: Rows, count: int, last: int, read: Read | None = None) -> Page:
    """The facts of a run. Raises ChainBroken, Unreadable.

    ``read`` reads blobs; without it the facts that have one stay without it.
    """
    facts: Page = []
    for n, body in _followed(run_id, rows, count, last):
        facts += _facts_of(run_id, n, body, read)
    return facts


def what_holds(
    run_id: str, rows: Rows, count: int, last: int, read: Read | None = None
) -> tuple[Page, str | None]:
    """The facts of a run as far as they hold, and what does not; None: all do.

    A fact whose blob is lost stays without it.
    """
    facts: Page = []
    lost: list[str] = []

    def read_or_note(ref: Ref) -> bytes | None:
        try:
            return read(ref) if read is not None else None
        except BlobLost as error:
            lost.append(str(error))
            return None

    try:
        for n, body in _followed(run_id, rows, count, last):
            facts += _facts_of(run_id, n, body, read and read_or_note)
    except (ChainBroken, sqlite3.DatabaseError) as error:
        return facts, str(error)
    return facts, lost[0] if lost else None


def timed_that_hold(
    run_id: str, rows: Rows, count: int, last: int
) -> tuple[list[Timed], str | None]:
    """As `what_holds`, with what the facts refer to."""
    facts: list[Timed] = []
    try:
        for n, body in _followed(run_id, rows, count, last):
            facts += _timed_of(run_id, n, body)
    except (ChainBroken, sqlite3.DatabaseError) as error:
        return facts, str(error)
    return facts, None


def chain_holds(run_id: str, rows: Rows, count: int, last: int) -> None:
    """Verify the checksums alone. Raises ChainBroken."""
    for _ in _followed(run_id, rows, count, last):
        pass


def _facts_of(run_id: str, n: int, body: bytes, read: Read | None) -> Page:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError:
        pass  # it may refer to blobs, which is seldom, and slower
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _unreadable(run_id, n, error) from error
    try:
        return [
            (each.at_ms, each.fact if read is None else timed.put_back(each, read))
            for each in _timed_of(run_id, n, body)
        ]
    except BlobLost as error:
        raise _unreadable(run_id, n, error) from error


def _timed_of(run_id: str, n: int, body: bytes) -> list[Timed]:
    try:
        return timed.decode_page(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _unreadable(run_id, n, error) from error


def _unreadable(run_id: str, n: int, error: Exception) -> Unreadable:
    return Unreadable(f"page {n} of run {run_id} cannot be read: {error}")


def _followed(run_id: str, rows: Rows, count: int, last: int) -> Iterator[tuple[int, bytes]]:
    """Each page with its number, as long as the chain holds. Raises ChainBroken."""
    before, expected = (start_of(run_id), 1) if count else (last, 1)
    for n, body, stored in rows:
        if n != expected:
            raise ChainBroken(f"page {expected} of run {run_id} is missing")
        try:
            before = link(before, n, body)
            if before != stored:
                raise ChainBroken(f"the checksum of page {n} of run {run_id} does not hold")
        except TypeError as error:
            raise ChainBroken(f"page {n} of run {run_id} cannot be read: {error}") from error
        yield n, body
        expected += 1
    if expected - 1 != count:
        raise ChainBroken(f"run {run_id} has {expected - 1} of {count} pages")
    if before != last:
        raise ChainBroken(f"the checksum in the row of run {run_id} does not hold")
