"""One journal, opened read-only for many questions."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Union

from fractal_rm.adapters.log.disk import log_folder
from fractal_rm.adapters.log.recent_updates import Unprojected
from fractal_rm.adapters.sqlite.format.meta import read_projected
from fractal_rm.adapters.sqlite.format.migrations import add_views_of_old_format
from fractal_rm.adapters.sqlite.format.prepare import check_files, format_of
from fractal_rm.adapters.sqlite.format.row_sums import decode_damaged, register_row_sum
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.format.schema import CHECKSUMS_SINCE, HANDLED_SINCE
from fractal_rm.adapters.sqlite.read.conditions import has_text
from fractal_rm.adapters.sqlite.read.fault_table import FaultTable
from fractal_rm.adapters.sqlite.read.live_runs import LiveRuns
from fractal_rm.adapters.sqlite.read.recent_runs import RecentRuns
from fractal_rm.adapters.sqlite.read.snapshot import unreadable
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunSummary

Updates = Callable[[], Union[Unprojected, None]]
CACHE_KIB = 2 * 1024
MANY = 2_000  # runs that the history lacks
WAIT_S = 5


class JournalConnection:
    """A connection that is kept between questions.

    ``recent`` are the runs of the log, ``faults`` the kinds of failure. ``has_lists``: the file has
    the tables of format 7. ``has_checksums``: it has those of format 5. ``damage`` describes what
    the current question could not read.
    """

    def __init__(self, path: Path, updates: Updates = lambda: None) -> None:
        """Open the journal. Raises JournalError.

        ``updates`` returns what the history lacks, if this process writes the journal.
        """
        self.path = path
        self.damage: list[str] = []
        self._is_broken = False
        self._updates = updates
        self._log = RecentRuns(log_folder(path), path.stem)
        self.recent: RecentRuns | LiveRuns = self._log
        self.faults = FaultTable()
        try:
            check_files(path)
            self._identity = _identity(path)
            uri = f"{path.absolute().as_uri()}?mode=ro"
            self.db = sqlite3.connect(
                uri, uri=True, timeout=WAIT_S, isolation_level=None, check_same_thread=False
            )
        except (OSError, sqlite3.Error) as error:
            raise unreadable(path, error) from error
        try:
            register_row_sum(self.db)
            self.db.create_function("has_text", 2, has_text, deterministic=True)
            self.db.text_factory = decode_damaged
            self.db.execute("PRAGMA temp_store = MEMORY")
            self.db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
            self._format = format_of(self.db, path)
            add_views_of_old_format(self.db, self._format)
        except (OSError, sqlite3.Error, ValueError) as error:
            self.db.close()
            raise unreadable(path, error) from error
        except BaseException:
            self.db.close()
            raise
        self.has_lists = self._format >= HANDLED_SINCE
        self.has_checksums = self._format >= CHECKSUMS_SINCE

    def is_current(self) -> bool:
        """Return whether the open file is still the journal, in the same format."""
        try:
            (file_format,) = self.db.execute("PRAGMA user_version").fetchone()
            if self._is_broken or file_format != self._format:
                return False
            return _identity(self.path) == self._identity
        except (OSError, sqlite3.Error):
            return False

    @contextmanager
    def question(self, *, fresh: bool) -> Generator[None]:
        """Read the journal in its state at one moment, in one transaction.

        Keep it short: SQLite cannot shorten its -wal file meanwhile. The next question may see the
        same moment, if it need not be ``fresh``; see `end_view`. Raises JournalError.
        """
        self.damage = []
        try:
            if fresh or not self.has_view:
                self.end_view()
                self._begin_view()
            try:
                yield
            except BaseException:
                self.end_view()
                raise
            if not self.is_view_kept:
                self.end_view()
        except UnicodeEncodeError:  # the question has a text that is not valid Unicode
            raise
        except (OSError, sqlite3.Error, ValueError) as error:
            raise unreadable(self.path, error) from error

    def _begin_view(self) -> None:
        self.db.execute("BEGIN")
        try:
            self._read_log()
            with suppress(sqlite3.DatabaseError):  # then the search reports the damage
                self.faults.refresh(self.db)
        except BaseException:
            self.end_view()
            raise

    @property
    def has_view(self) -> bool:
        """Whether the moment that was read last can be read once more."""
        return self.db.in_transaction

    @property
    def is_view_kept(self) -> bool:
        """Whether other questions should read the same moment: it takes long to prepare it."""
        return isinstance(self.recent, LiveRuns) and len(self.recent) > MANY and not self.damage

    def end_view(self) -> None:
        """Let the next question read the journal as it is then."""
        if self.db.in_transaction:
            try:
                self.db.execute("COMMIT")
            except sqlite3.DatabaseError:  # SQLite reports damage once more; the search did, too
                self._is_broken = True

    def close(self) -> None:
        """Close the connection."""
        self.db.close()

    def _read_log(self) -> None:
        """Learn what the history does not have yet: from memory if possible, else from the log."""
        if self.has_checksums and not self._read_memory():
            self._read_log_to_end()

    def _read_memory(self) -> bool:
        """Return whether this process knows what the history lacks. It is then ``recent``.

        If the history is at neither position of the updates, it was written between the two reads,
        and the next updates have other positions. Otherwise its positions are damaged.
        """
        last_positions = None
        while (updates := self._updates()) is not None:  # before the history is read
            positions = updates.since, updates.until
            projected = read_projected(self.db)
            if projected is not None and projected in positions:
                self._log.forget()
                self.recent = LiveRuns(self.path.stem, updates, projected, self.summary_of)
                return True
            if positions == last_positions:
                return False
            last_positions = positions
            self._begin_again()
        return False

    def _read_log_to_end(self) -> None:
        """Read the log to its end. If segments are reused meanwhile, the history has them then."""
        self.recent = self._log
        last_positions = None
        while (positions := read_projected(self.db)) is not None:
            try:
                self._log.refresh(positions)
            except JournalDamaged as error:  # noqa: PERF203 - it is seldom tried twice
                self._log.forget()
                if positions == last_positions:
                    self.damage.append(str(error))
                    return
                last_positions = positions
                self._begin_again()
            else:
                return

    def _begin_again(self) -> None:
        self.db.execute("COMMIT")
        self.db.execute("BEGIN")

    def summary_of(self, row: RunRow) -> RunSummary:
        """Return the summary of a valid row. Raises ValueError for an unknown state."""
        fault = self.faults.get(row.fault)
        component, cause = (None, None) if fault is None else (fault.component, fault.cause)
        return RunSummary(
            row.id, row.flow, State(row.state), row.reason, row.source, row.node, row.accepted_ms,
            row.settled_ms, self.path.stem, row.parent, component, cause,
        )  # fmt: skip


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
