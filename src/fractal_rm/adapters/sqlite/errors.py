"""Translate errors of SQLite and of the operating system to errors of the journal."""

from __future__ import annotations

import sqlite3
from errno import ENOSPC
from pathlib import Path

from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalError,
    JournalFull,
    JournalLocked,
    JournalReadOnly,
)

WAIT_S = 5  # how long SQLite waits for the lock of another program, such as a sqlite3 prompt


def journal_error(path: Path, error: OSError | sqlite3.Error | UnicodeDecodeError) -> JournalError:
    """Return the JournalError for an error that occurred while the journal at ``path`` was used."""
    if isinstance(error, UnicodeDecodeError):  # the cause is damaged text in SQLite's message
        return damaged(path, "cannot be read")
    # The text of an OSError includes the path, which may contain "full".
    text = str(error)
    is_sqlite_error = isinstance(error, sqlite3.Error)
    is_full = "full" in text if is_sqlite_error else error.errno == ENOSPC
    if is_full:
        return JournalFull(
            f"{path}: the disk is full; make room, or set state.path to another disk"
        )
    if is_locked(error):
        return JournalLocked(
            f"{path}: another program has locked it for {WAIT_S} s; end that program"
        )
    if not is_sqlite_error or "readonly" in text or "unable to open" in text:
        return JournalReadOnly(
            f"{path} cannot be written ({text}); give the user of this program write permission to"
            " the folder, or set state.path in comm.conf to another folder"
        )
    return damaged(path, f"cannot be read ({text})")


def damaged(path: Path, problem: str) -> JournalDamaged:
    """Return the error for a damaged journal, with the commands that help.

    ``problem`` continues the sentence after the path: "is …" or "cannot …".
    """
    return JournalDamaged(
        f"{path} {problem}. `fractal-rm journal check` shows the damage;"
        " `fractal-rm journal repair` rebuilds it from what can be read; to start without it, move"
        " the file, its -wal file, its log and its blobs away"
    )


def is_locked(error: Exception) -> bool:
    """Return whether another program has locked the file. Such a file is not damaged."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def is_damage(error: sqlite3.Error) -> bool:
    """Return whether an error means that the content of the file is damaged."""
    text = str(error)
    return any(each in text for each in ("malformed", "not a database", "cannot hold BLOB"))
