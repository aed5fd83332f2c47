"""Write the content of the log into the history, in one transaction of three parts."""

from __future__ import annotations

import sqlite3
from collections.abc import Generator, Iterable
from contextlib import contextmanager

from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.run_updates import RunUpdate, RunUpdates
from fractal_rm.adapters.sqlite.errors import damaged
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.faults import Faults
from fractal_rm.adapters.sqlite.format.page_chain import ChainBroken
from fractal_rm.adapters.sqlite.write.file import HistoryFile
from fractal_rm.adapters.sqlite.write.kept_values import KeptValues
from fractal_rm.adapters.sqlite.write.last_pages import LastPages
from fractal_rm.adapters.sqlite.write.minutes import Minutes
from fractal_rm.adapters.sqlite.write.run_rows import RunRows


class Projection:
    """Call `begin`, then `add` as often as needed, then `commit`.

    All methods raise JournalBlocked, JournalLost. If a method raises JournalBlocked, the
    transaction was rolled back.
    """

    def __init__(self, file: HistoryFile, blobs: BlobFiles) -> None:
        """Read the faults and the highest run number. Raises sqlite3.Error."""
        self._file = file
        self._next_no = 1 + (file.value("SELECT max(no) FROM runs") or 0)
        self._faults = Faults(file.db)
        self._minutes = Minutes(file.db)
        self.last_pages = LastPages(file.db)
        self.kept_values = KeptValues(file.db, blobs)
        self._rows: RunRows

    def begin(self, updates: RunUpdates) -> None:
        """Begin the transaction, and update the runs that are in the history already."""
        self._file.check_in_place()
        with self._rolled_back_on_error():
            self._file.db.execute("BEGIN IMMEDIATE")
            self._rows = RunRows(self._file.db, updates.flows, self._next_no, self._faults)
            last_pages = self.kept_values.drop_values(updates, self.last_pages.all)
            self._rows.update(updates.older, last_pages)

    def add(self, updates: Iterable[RunUpdate]) -> None:
        """Insert new runs. Reads nothing from the file, and takes about 8 µs for each run."""
        with self._rolled_back_on_error():
            self._rows.insert(updates)

    def commit(self, updates: RunUpdates, reached: Projected) -> None:
        """Write the other tables and the positions reached in the log, and commit durably."""
        db, rows, written = self._file.db, self._rows, self._rows.written
        with self._rolled_back_on_error():
            rows.finish(updates.duplicates, updates.after_end)
            execute_bulk(db, statements.INSERT_KEYS, written.key_rows)
            for name, amount in written.counts.items():
                db.execute(statements.ADD_TO_META, {"name": name, "amount": amount})
            self._minutes.write(db, written.begun, written.ended)
            self._file.set_meta("projected", reached.all)
            self._file.set_meta("ended_until", reached.ended)
            db.execute("COMMIT")
        self._faults.commit()
        self._minutes.commit()
        self._next_no = written.next_no
        self.last_pages.update(written.last_pages)
        self.last_pages.remove(written.ended_ids)

    @contextmanager
    def _rolled_back_on_error(self) -> Generator[None]:
        try:
            yield
        except sqlite3.Error as error:
            self._faults.rollback()
            raise self._file.failed_write_error(error) from error
        except ChainBroken as error:
            raise damaged(self._file.path, f"is damaged: {error}") from error
