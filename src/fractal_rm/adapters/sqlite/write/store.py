"""The history of a running process: implements the port `History` of the log. All calls block."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.log.history import KeyQuery, Projected
from fractal_rm.adapters.log.run_updates import RunUpdate, RunUpdates
from fractal_rm.adapters.sqlite.errors import damaged, journal_error
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.meta import read_projected
from fractal_rm.adapters.sqlite.format.page_chain import ChainBroken
from fractal_rm.adapters.sqlite.read.by_trigger_id import find_runs
from fractal_rm.adapters.sqlite.read.open_runs import OpenRunReader, load_run
from fractal_rm.adapters.sqlite.verify.scrub import BYTES_PER_S, Scrub
from fractal_rm.adapters.sqlite.write import move_runs
from fractal_rm.adapters.sqlite.write.delete_blobs import delete_all, sweep
from fractal_rm.adapters.sqlite.write.file import HistoryFile
from fractal_rm.adapters.sqlite.write.limits import GetHistoryLimits
from fractal_rm.adapters.sqlite.write.projection import Projection
from fractal_rm.adapters.sqlite.write.retention import PURGE_EVERY_S, Retention
from fractal_rm.domain.journal_errors import JournalError, JournalMoved
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import ExistingRun, Recovered


class HistoryStore:
    """One history, opened by one process.

    `find` uses its own connection, so it can be called during another call. ``synchronous`` is the
    value of SQLite's PRAGMA. ``brief_lock``: the journal belongs to another process, and is locked
    only for a short time.
    """

    def __init__(
        self, path: Path, limits: GetHistoryLimits, *, blobs: BlobFiles | None = None,
        synchronous: str = "FULL",
        monotonic_s: Callable[[], float], purge_every_s: float = PURGE_EVERY_S,
        scrub_bytes_per_s: int = BYTES_PER_S, brief_lock: bool = False,
    ) -> None:  # fmt: skip
        self._blobs = blobs or FolderBlobs(blob_folder(path))
        self.scrubber = Scrub(monotonic_s, scrub_bytes_per_s, self._blobs)
        self.file = HistoryFile(
            path,
            synchronous=synchronous,
            brief_lock=brief_lock,
            on_damage=self.scrubber.add_problem,
        )
        self._retention = Retention(
            self.file, self._blobs, limits, monotonic_s=monotonic_s, every_s=purge_every_s
        )
        self._projection: Projection

    # --- open and close -----------------------------------------------------------------------

    def open(self) -> Projected:
        """Lock and open the file. Returns the positions up to which it contains the log.

        Raises JournalError.
        """
        path = self.file.path
        try:
            self.file.open()
            self.scrubber.use(self.file.connect_to_read())
            self._projection = Projection(self.file, self._blobs)
            positions = read_projected(self.file.db)
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            self.abandon()
            raise journal_error(path, error) from error
        except JournalError:
            self.abandon()
            raise
        if positions is None:
            self.abandon()
            raise damaged(path, "is damaged: its position in the log is missing")
        return positions

    def take_lock(self) -> None:
        """Lock the journal before `open` does so. Raises JournalInUse, JournalError."""
        self.file.take_lock()

    def close(self, *, clean: bool) -> None:
        """Close the file. ``clean``: record that the process ends in order.

        Can be called at any time. Raises JournalBlocked if the end cannot be recorded. The next
        start then treats the end as a crash.
        """
        try:
            if clean:
                self.file.check_in_place()
                self.file.set_meta("clean", 1)
        except sqlite3.Error as error:
            raise self.file.journal_error_of(error) from error
        finally:
            self.scrubber.close()
            self.file.close()

    def abandon(self) -> None:
        """Release the lock without recording that the process ended. Connections stay open."""
        self.file.release()

    # --- read ---------------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """Return the open runs, and how the last process ended. Raises JournalError."""
        file = self.file
        try:
            reader = OpenRunReader(file.db, file.path, self._blobs)
            reader.read()
            clean = bool(file.value("SELECT value FROM meta WHERE name = 'clean'"))
            file.set_meta("clean", 0)
            newest = file.value(statements.NEWEST_OWN_RUN_ID) or ""
            ended_ms = file.value(statements.NEWEST_END_MS)
        except (OSError, sqlite3.Error) as error:  # OSError: this user may not read a blob
            raise journal_error(file.path, error) from error
        return Recovered(reader.runs, clean, newest, ended_ms, reader.broken)

    def flow_body(self, version: str) -> bytes | None:
        """Return the JSON of a flow version; None if the history does not have it."""
        row = self.file.db.execute(statements.FLOW_BODY, (version,)).fetchone()
        return row[0] if row else None

    def run_of(self, run_id: str) -> Run | None:
        """Return a run without the steps of its flow; see `load_run`."""
        return load_run(self.file.db, run_id)

    def open_ids(self) -> list[str]:
        """Return the ids of the open runs. Raises JournalError."""
        try:
            return list(self._projection.last_pages.all())
        except sqlite3.Error as error:
            raise journal_error(self.file.path, error) from error

    def find(self, queries: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """Find a run for each query, by trigger id or run id; see `find_runs`.

        Raises JournalBlocked, JournalLost.
        """
        try:
            return find_runs(self.file.reader, queries)
        except sqlite3.Error as error:
            raise self.file.failed_call_error(error) from error

    # --- write --------------------------------------------------------------------------------

    def project(self, updates: RunUpdates, reached: Projected) -> None:
        """Write updates and the positions reached in the log, in one transaction.

        Raises JournalBlocked, JournalLost.
        """
        self.begin(updates)
        self.add(updates.new)
        self.commit(updates, reached)

    def begin(self, updates: RunUpdates) -> None:
        """Do the first part of `project`: update existing runs."""
        self._projection.begin(updates)

    def add(self, updates: Iterable[RunUpdate]) -> None:
        """Do the second part of `project`: insert new runs. Can be called several times."""
        self._projection.add(updates)

    def commit(self, updates: RunUpdates, reached: Projected) -> None:
        """Do the last part of `project`: write the other tables, and commit durably."""
        self._projection.commit(updates, reached)
        delete_all(self._blobs, self._projection.kept_values.take_unused_blobs())

    def purge(self, retention_ms: int) -> None:
        """Drop one slice of old runs if it is due. Raises JournalBlocked, JournalLost."""
        self._retention.drop_if_due(retention_ms)

    def sweep(self) -> None:
        """Delete the blobs that no run refers to.

        Call this only while the history contains the complete log: a run that is only in the log
        may have blobs. Raises JournalError.
        """
        try:
            sweep(self.file.db, self._blobs)
        except (OSError, sqlite3.Error) as error:
            raise journal_error(self.file.path, error) from error

    # --- move runs to another journal -----------------------------------------------------------

    def encode_open_runs(self, run_ids: Sequence[str]) -> bytes:
        """Return open runs as a body of log records. Raises JournalError."""
        try:
            return move_runs.encode_open_runs(self.file.db, run_ids)
        except ChainBroken as error:
            raise damaged(self.file.path, str(error)) from error
        except sqlite3.Error as error:
            raise journal_error(self.file.path, error) from error

    def delete_open(self, run_ids: Sequence[str]) -> None:
        """Delete open runs after they were moved away. Raises JournalBlocked, JournalLost."""
        db = self.file.db
        try:
            db.execute("BEGIN IMMEDIATE")
            names = move_runs.delete_runs(db, run_ids)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self.file.failed_write_error(error) from error
        delete_all(self._blobs, names)
        self._projection.last_pages.remove(run_ids)

    # --- check --------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise JournalMoved if the file was deleted, moved or replaced."""
        self.file.check_in_place()

    def check_lock(self) -> None:
        """Call `check`, then lock again if the lock file was deleted.

        Raises JournalMoved; JournalLost if another process has locked the journal.
        """
        self.file.keep_lock()

    @property
    def damage(self) -> str | None:
        """The damage found so far, as a sentence; None if no damage was found."""
        return self.scrubber.damage

    def scrub(self) -> None:
        """Verify some more rows, as many as the time since the last call allows."""
        with suppress(JournalMoved):  # raised if the open file is not the journal any more
            self.file.check_in_place()
            self.scrubber.read_more()
