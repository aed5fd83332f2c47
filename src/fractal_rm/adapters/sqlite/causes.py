"""What SQLite or the system says of a journal's file, in our words: the cause and the cure."""

from __future__ import annotations

import sqlite3
from errno import ENOSPC
from pathlib import Path

from fractal_rm.domain.journal_errors import (
    JournalDamaged,
    JournalError,
    JournalFull,
    JournalHeld,
    JournalReadOnly,
)

WAIT_S = 5  # for another program that writes into the file: a person at a sqlite3 prompt


def unusable(path: Path, error: OSError | sqlite3.Error | UnicodeDecodeError) -> JournalError:
    """A foreign error in our words, with the cure."""
    if isinstance(error, UnicodeDecodeError):  # SQLite says what it has read
        return damaged(path, "cannot be read")
    text = str(error)  # of an OSError it has the path, in which any word may be
    of_sqlite = isinstance(error, sqlite3.Error)
    if "full" in text if of_sqlite else error.errno == ENOSPC:
        return JournalFull(f"{path}: the disk is full; make room, or set state.path elsewhere")
    if is_held(error):
        return JournalHeld(f"{path}: another program has held it for {WAIT_S} s; end that one")
    if not of_sqlite or "readonly" in text or "unable to open" in text:
        return JournalReadOnly(
            f"{path} cannot be written ({text}); give the user of this program write permission to"
            " the folder, or set state.path in comm.conf to another one"
        )
    return damaged(path, f"cannot be read ({text})")


def damaged(path: Path, what: str) -> JournalDamaged:
    """What does not hold, as ``is …`` or ``cannot …``, and what can be done."""
    return JournalDamaged(
        f"{path} {what}. Look at it with `fractal-rm journal check`; `fractal-rm journal repair`"
        " makes it again of what can be read; to start without it, move it, its -wal file, its log"
        " and its blobs away"
    )


def is_held(error: Exception) -> bool:
    """Whether another program holds the file: that says nothing of what is in it."""
    return isinstance(error, sqlite3.OperationalError) and "locked" in str(error)


def is_damage(error: sqlite3.Error) -> bool:
    """Whether the file says what it cannot: the disk does what it is told."""
    text = str(error)
    return any(each in text for each in ("malformed", "not a database", "cannot hold BLOB"))
