"""The blobs that the history names: whether they hold, and what is left of those that went."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import Any

from fractal_rm.adapters.log.blobs import BlobFiles, BlobLost, verified
from fractal_rm.adapters.log.timed import Ref
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.verify import broken_rows

AT_ONCE = 64
ROW_BYTES = 100  # about what a row takes beside its body
AFTER = (
    "SELECT run, name, size, crc, sum FROM main.blobs WHERE (run, name) > (?, ?)"
    " ORDER BY run, name LIMIT ?"
)
BYTES = (  # as they are noted, and as they are
    "SELECT (SELECT value FROM main.meta WHERE name = 'blob_bytes'),"
    " (SELECT coalesce(sum(size), 0) FROM main.blobs)"
)
HAS = "SELECT 1 FROM main.blobs WHERE run = ? AND name = ?"

Found = tuple[int, list[str]]  # bytes that were read, and what does not hold


Has = Callable[[int, str], bool]  # whether a run still has a blob: it may have gone meanwhile


def look_at_blobs(db: sqlite3.Connection, files: BlobFiles, has: Has) -> Iterator[Found]:
    """Their rows all, and each of them, by run, piece by piece. Raises sqlite3.Error."""
    noted, found = db.execute(BYTES).fetchone()
    if noted != found:
        yield ROW_BYTES, [f"the large values of its runs should have {noted} bytes, not {found}"]
    after: tuple[Any, ...] = (0, "")
    while rows := db.execute(AFTER, (*after, AT_ONCE)).fetchall():
        yield len(rows) * ROW_BYTES, list(broken_rows("blob of run no.", rows))
        for row in rows:
            yield from _look_at(files, row, has)
        after = rows[-1][:2]


def has_in(db: sqlite3.Connection) -> Has:
    """As a connection sees it now."""
    return lambda no, name: db.execute(HAS, (no, name)).fetchone() is not None


def sweep(db: sqlite3.Connection, files: BlobFiles) -> None:
    """Delete those that no run has, if all rows are there. Raises OSError, sqlite3.Error."""
    there = set(files.names())
    noted, found = db.execute(BYTES).fetchone()
    if there and noted == found:
        delete_all(files, there.difference(name for (name,) in db.execute(statements.BLOB_NAMES)))


def delete_all(files: BlobFiles, names: Iterable[str]) -> None:
    """Delete those that no run has any more; what cannot be is swept at the next start."""
    with suppress(OSError):
        for name in names:
            files.delete(name)


def _look_at(files: BlobFiles, row: tuple[Any, ...], has: Has) -> Iterator[Found]:
    no, name, size, crc, _ = row
    try:
        for piece in verified(files, Ref("large value", name, size, crc)):
            yield len(piece), []
    except BlobLost as lost:
        if has(no, name):
            yield ROW_BYTES, [f"of run no. {no}, {lost}"]
