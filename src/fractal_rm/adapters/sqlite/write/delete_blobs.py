"""Delete the files of blobs that no run refers to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress

from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.sqlite.format import statements


def sweep(db: sqlite3.Connection, files: BlobFiles) -> None:
    """Delete the files without a row in ``blobs``. Raises OSError, sqlite3.Error.

    Does nothing if the size in ``meta`` shows that rows are missing.
    """
    existing = set(files.names())
    counted_bytes, found_bytes = db.execute(statements.BLOB_BYTES_COUNTED_AND_FOUND).fetchone()
    if existing and counted_bytes == found_bytes:
        with_row = (name for (name,) in db.execute(statements.BLOB_NAMES))
        delete_all(files, existing.difference(with_row))


def delete_all(files: BlobFiles, names: Iterable[str]) -> None:
    """Delete files. After an error, the other files are left to the `sweep` of the next start."""
    with suppress(OSError):
        for name in names:
            files.delete(name)
