"""The history of a running process, with blocking calls: the port `History` of the log."""

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
    """One file, opened by one process. ``synchronous`` is the PRAGMA of SQLite.

    `find` uses a connection of its own: it may be called during another call.
    ``passing``: the file belongs to another process, and is locked for a moment.
    """

    def __init__(
        self, path: Path, keep: GetHistoryLimits, *, blobs: BlobFiles | None = None,
        synchronous: str = "FULL",
        monotonic_s: Callable[[], float], purge_every_s: float = PURGE_EVERY_S,
        scrub_bytes_per_s: int = BYTES_PER_S, passing: bool = False,
    ) -> None:  # fmt: skip
        self._blobs = blobs or FolderBlobs(blob_folder(path))
        self.scrubber = Scrub(monotonic_s, scrub_bytes_per_s, self._blobs)
        self.file = HistoryFile(
            path, synchronous=synchronous, passing=passing, on_damage=self.scrubber.note
        )
        self._retention = Retention(
            self.file, self._blobs, keep, monotonic_s=monotonic_s, every_s=purge_every_s
        )
        self._projection: Projection

    # --- open and close -----------------------------------------------------------------------

    def open(self) -> Projected:
        """Lock and open the file; returns the positions up to which it contains the log.

        Raises JournalError.
        """
        path = self.file.path
        try:
            self.file.open()
            self.scrubber.open(self.file.connect_to_read())
            self._projection = Projection(self.file)
            had = read_projected(self.file.db)
        except (OSError, sqlite3.Error, UnicodeDecodeError) as error:
            self.abandon()
            raise journal_error(path, error) from error
        except JournalError:
            self.abandon()
            raise
        if had is None:
            self.abandon()
            raise damaged(path, "is damaged: its position in the log is missing")
        return had

    def take_lock(self) -> None:
        """Lock the journal; `open` does so too. Raises JournalInUse, JournalError."""
        self.file.take_lock()

    def close(self, *, clean: bool) -> None:
        """Note how the process ended, and close. May be called at any time.

        Raises JournalBlocked; then the end counts as a crash.
        """
        try:
            if clean:
                self.file.check_in_place()
                self.file.set_meta("clean", 1)
        except sqlite3.Error as error:
            raise self.file.cause(error) from error
        finally:
            self.scrubber.close()
            self.file.close()

    def abandon(self) -> None:
        """Release the lock, as the end of the process does; connections stay open."""
        self.file.release()

    # --- read ---------------------------------------------------------------------------------

    def recover(self) -> Recovered:
        """The open runs, and how the last process ended. Raises JournalError."""
        file = self.file
        try:
            reader = OpenRunReader(file.db, file.path, self._blobs)
            reader.read()
            clean = bool(file.value("SELECT value FROM meta WHERE name = 'clean'"))
            file.set_meta("clean", 0)
            newest = file.value(statements.NEWEST) or ""
            ended_ms = file.value(statements.NEWEST_END)
        except (OSError, sqlite3.Error) as error:  # OSError: a blob that this user may not read
            raise journal_error(file.path, error) from error
        return Recovered(reader.runs, clean, newest, ended_ms, reader.broken)

    def run_of(self, run_id: str) -> Run | None:
        """A run without the steps of its flow; None if its facts make no run."""
        return load_run(self.file.db, run_id)

    def open_ids(self) -> list[str]:
        """The ids of the open runs. Raises JournalError."""
        try:
            return list(self._projection.last_pages.all())
        except sqlite3.Error as error:
            raise journal_error(self.file.path, error) from error

    def find(self, asked: Sequence[KeyQuery]) -> list[ExistingRun | None]:
        """For each: the run that has the trigger id, or else the run id; see `find_runs`.

        Raises JournalBlocked, JournalLost.
        """
        try:
            return find_runs(self.file.reader, asked)
        except sqlite3.Error as error:
            raise self.file.failed(error) from error

    # --- write --------------------------------------------------------------------------------

    def project(self, stories: RunUpdates, reached: Projected) -> None:
        """Write the content of the log, with the positions reached in it, in one transaction.

        Raises JournalBlocked, JournalLost.
        """
        self.begin(stories)
        self.add(stories.new)
        self.commit(stories, reached)

    def begin(self, stories: RunUpdates) -> None:
        """The first part of `project`: update existing runs."""
        self._projection.begin(stories)

    def add(self, stories: Iterable[RunUpdate]) -> None:
        """The second part, as often as needed: insert new runs."""
        self._projection.add(stories)

    def commit(self, stories: RunUpdates, reached: Projected) -> None:
        """The last part: write the rest; then all of it is durable."""
        self._projection.commit(stories, reached)

    def purge(self, retention_ms: int) -> None:
        """If it is time, drop one slice of old runs. Raises JournalBlocked, JournalLost."""
        self._retention.drop_if_due(retention_ms)

    def sweep(self) -> None:
        """Delete the blobs that no run has. Call it only while it contains the whole log.

        Raises JournalError.
        """
        try:
            sweep(self.file.db, self._blobs)
        except (OSError, sqlite3.Error) as error:
            raise journal_error(self.file.path, error) from error

    # --- move runs to another journal -----------------------------------------------------------

    def body_of(self, run_ids: Sequence[str]) -> bytes:
        """Open runs as a body of log records. Raises JournalError."""
        try:
            return move_runs.body_of(self.file.db, run_ids)
        except ChainBroken as error:
            raise damaged(self.file.path, str(error)) from error
        except sqlite3.Error as error:
            raise journal_error(self.file.path, error) from error

    def delete_open(self, run_ids: Sequence[str]) -> None:
        """Delete open runs: another journal has them. Raises JournalBlocked, JournalLost."""
        db = self.file.db
        try:
            db.execute("BEGIN IMMEDIATE")
            names = move_runs.delete_runs(db, run_ids)
            db.execute("COMMIT")
        except sqlite3.Error as error:
            raise self.file.write_failed(error) from error
        delete_all(self._blobs, names)
        self._projection.last_pages.remove(run_ids)

    # --- check --------------------------------------------------------------------------------

    def check(self) -> None:
        """Raise JournalGone if the next start would open another file."""
        self.file.check_in_place()

    def check_lock(self) -> None:
        """`check`, and keep the lock. Raises JournalGone; JournalLost if another process has it."""
        self.file.keep_lock()

    @property
    def damage(self) -> str | None:
        """The damage found so far, as a sentence; None if there is none."""
        return self.scrubber.damage

    def scrub(self) -> None:
        """Verify some more rows, as many as the time since the last call allows."""
        with suppress(JournalMoved):  # it would read another file than the next start
            self.file.check_in_place()
            self.scrubber.read_on()
