"""Verify the blobs that a history refers to."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from fractal_rm.adapters.log.blobs import BlobFiles, BlobLost, verified_pieces
from fractal_rm.adapters.log.timed import Ref
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.verify.rows import invalid_rows

ROWS_AT_ONCE = 64
ROW_BYTES = 100  # about the size of a row of any table, without `body`
_ROWS_AFTER = (
    "SELECT run, name, size, crc, sum FROM main.blobs WHERE (run, name) > (?, ?)"
    " ORDER BY run, name LIMIT ?"
)
_HAS_BLOB = "SELECT 1 FROM main.blobs WHERE run = ? AND name = ?"

# The result of one part of a verification: the number of bytes read, and the problems found.
Part = tuple[int, list[str]]

# Returns whether a run has a blob. The arguments are the run number and the name of the blob.
HasBlob = Callable[[int, str], bool]


def verify_blobs(
    db: sqlite3.Connection, files: BlobFiles, still_has_blob: HasBlob
) -> Iterator[Part]:
    """Verify all rows of ``blobs`` and their files, piece by piece. Raises sqlite3.Error.

    A missing file is a problem only if ``still_has_blob`` returns true for its blob.
    """
    counted_bytes, found_bytes = db.execute(statements.BLOB_BYTES_COUNTED_AND_FOUND).fetchone()
    if counted_bytes != found_bytes:
        yield (
            ROW_BYTES,
            [f"large values should have {counted_bytes} bytes in total, but have {found_bytes}"],
        )
    last_no, last_name = 0, ""
    while rows := db.execute(_ROWS_AFTER, (last_no, last_name, ROWS_AT_ONCE)).fetchall():
        yield len(rows) * ROW_BYTES, list(invalid_rows("blob of run no.", rows))
        for row in rows:
            yield from _verify_file(files, row, still_has_blob)
        last_no, last_name, *_ = rows[-1]


def blob_query(db: sqlite3.Connection) -> HasBlob:
    """Return a function that selects from a database whether a run has a blob."""
    return lambda no, name: db.execute(_HAS_BLOB, (no, name)).fetchone() is not None


def loss_reason(files: BlobFiles, ref: Ref) -> str | None:
    """Return why a blob is lost; None if it can be read, or is already marked as lost."""
    if ref.name is not None:
        try:
            for _ in verified_pieces(files, ref):
                pass
        except BlobLost as error:
            return str(error)
    return None


def _verify_file(files: BlobFiles, row: tuple[Any, ...], still_has_blob: HasBlob) -> Iterator[Part]:
    no, name, size, crc, _ = row
    try:
        for piece in verified_pieces(files, Ref("large value", name, size, crc)):
            yield len(piece), []
    except BlobLost as error:
        if still_has_blob(no, name):
            yield ROW_BYTES, [f"of run no. {no}, {error}"]
