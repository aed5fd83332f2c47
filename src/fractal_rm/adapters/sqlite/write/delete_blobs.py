"""Delete the files of blobs that no run refers to."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from contextlib import suppress

from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.sqlite.format import statements


def sweep(db: sqlite3.Connection, files: BlobFiles) -> None:
    """Delete the files that have no row in ``blobs``. Raises OSError, sqlite3.Error.

    Does nothing if the total size in ``meta`` shows that rows are missing.
    """
    names = set(files.names())
    counted_bytes, found_bytes = db.execute(statements.BLOB_BYTES_COUNTED_AND_FOUND).fetchone()
    if names and counted_bytes == found_bytes:
        used_names = (name for (name,) in db.execute(statements.BLOB_NAMES))
        delete_all(files, names.difference(used_names))


def delete_all(files: BlobFiles, names: Iterable[str]) -> None:
    """Delete files. After an error, the `sweep` of the next start deletes the remaining files."""
    with suppress(OSError):
        for name in names:
            files.delete(name)
