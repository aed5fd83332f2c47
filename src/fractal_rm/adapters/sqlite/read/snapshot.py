"""Open a journal read-only, in its state at one moment. Reads never block writes (WAL mode)."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path

from fractal_rm.adapters.sqlite.format.migrations import add_views_of_old_format
from fractal_rm.adapters.sqlite.format.page_chain import ChainBroken
from fractal_rm.adapters.sqlite.format.prepare import check_files, format_of
from fractal_rm.adapters.sqlite.format.row_sums import decode_damaged, register_row_sum
from fractal_rm.adapters.sqlite.format.schema import CHECKSUMS_SINCE
from fractal_rm.adapters.sqlite.read.log_overlay import add_log
from fractal_rm.domain.journal_errors import JournalDamaged, JournalUnreadable


@contextmanager
def snapshot(
    path: Path, *, with_log: bool = True, damage: list[str] | None = None
) -> Generator[sqlite3.Connection]:
    """Yield a connection that reads one journal in one transaction.

    ``with_log``: also read the part of the log that is not in the history yet. If the log is
    damaged, only the history is read, and the reason is appended to ``damage``. If ``damage`` is
    None, a damaged log raises JournalDamaged.

    Raises JournalUnreadable if this user may not read the journal, JournalDamaged if a part of it
    cannot be read, JournalTooNew, JournalTooOld.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        check_files(path)
        path.stat()  # for a broken link, this error is clearer than SQLite's
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as db:
            register_row_sum(db)
            db.text_factory = decode_damaged
            db.execute("BEGIN")
            file_format = format_of(db, path)
            add_views_of_old_format(db, file_format)
            if file_format >= CHECKSUMS_SINCE and with_log:
                try:
                    add_log(db, path)
                except JournalDamaged as error:
                    if damage is None:
                        raise
                    damage.append(str(error))
            yield db
    except UnicodeEncodeError:  # the caller searched for a text that is not valid Unicode
        raise
    except (OSError, sqlite3.Error, ChainBroken, ValueError) as error:  # ValueError: unknown state
        raise unreadable(path, error) from error


def unreadable(path: Path, error: Exception) -> JournalDamaged | JournalUnreadable:
    """Return the error for a journal that cannot be read."""
    if isinstance(error, PermissionError):
        problem = f"{path} cannot be read ({error.strerror})"
        return JournalUnreadable(f"{problem}; run the command as the user of the node")
    text = str(error.strerror) if isinstance(error, OSError) else str(error)
    if isinstance(error, sqlite3.Error) and ("unable to open" in text or "readonly" in text):
        return JournalUnreadable(
            f"{path} cannot be read ({text}): SQLite writes files next to the file that it reads;"
            " run the command as the user of the node, or copy the folder and comm.conf, and read"
            " the copy"
        )
    return JournalDamaged(f"{path} cannot be read ({text})")


def journals_in(folder: Path) -> list[Path]:
    """Return the journals of a state folder. The folder may not exist yet.

    Raises JournalUnreadable.
    """
    try:
        # Unlike `glob`, this raises OSError for a folder that cannot be read.
        files = list(folder.iterdir())
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.is_symlink():
            return []
        raise JournalUnreadable(
            f"{folder} cannot be read ({error.strerror}); run the command as the user of the"
            " node, or correct state.path in comm.conf"
        ) from error
    return sorted(file for file in files if file.suffix == ".journal")


def open_runs_of(path: Path) -> list[str]:
    """Return the ids of a journal's open runs, in order of acceptance. Raises JournalError."""
    with snapshot(path) as db:
        rows = db.execute("SELECT id FROM runs WHERE settled_ms IS NULL ORDER BY no").fetchall()
    return [run_id for (run_id,) in rows]
