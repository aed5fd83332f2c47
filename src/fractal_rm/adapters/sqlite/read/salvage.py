"""Read runs of a damaged file, in ranges of run numbers.

A range that cannot be read is halved and read again. So only the rows in damaged pages of the file
are skipped.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator

from fractal_rm.adapters.sqlite.errors import is_locked
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.run_row import RunRow

RANGE = 4_096
Page = tuple[int, int, bytes, int]  # run number, page number, body, checksum


class Salvage:
    """Reads runs by number.

    ``unreadable`` contains the first and the last number of each range that cannot be read.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._last_error = ""
        self.unreadable: list[tuple[int, int]] = []

    @property
    def problems(self) -> list[str]:
        """A message about each unreadable range; if there is none, one about a damaged index."""
        problems = [
            f"runs no. {first} to {last} cannot be read ({self._last_error})"
            for first, last in self.unreadable
        ]
        return problems or ["an index cannot be read: `fractal-rm journal repair` rebuilds it"]

    def rows_newest_first(self, enough: Callable[[], bool] = lambda: False) -> Iterator[RunRow]:
        """Yield rows of ``runs``. Before each range, stop if ``enough`` returns true."""
        last = self.last_no()
        while last > 0 and not enough():
            first = max(1, last - RANGE + 1)
            yield from self.rows_between(first, last)
            last = first - 1

    def rows_oldest_first(self) -> Iterator[RunRow]:
        """Yield all readable rows of ``runs``."""
        last = self.last_no()
        for first in range(1, last + 1, RANGE):
            rows = list(self.rows_between(first, min(first + RANGE - 1, last)))
            yield from reversed(rows)

    def last_no(self) -> int:
        """Return an upper bound of all run numbers. Raises sqlite3.Error if nothing can be read."""
        highest, last_error = 0, None
        for statement in statements.HIGHEST_RUN_NUMBERS:
            try:
                highest = max(highest, self._db.execute(statement).fetchone()[0] or 0)
            except (sqlite3.DatabaseError, TypeError) as error:  # noqa: PERF203 - another statement may succeed
                last_error = error
        if not highest and last_error is not None:
            raise sqlite3.DatabaseError(str(last_error))
        return highest

    def pages_of(self, no: int) -> list[Page]:
        """Return the readable pages of a run."""
        pages: list[Page] = []
        try:
            pages.extend(self._db.execute(statements.PAGES_BETWEEN, (no, no)))
        except sqlite3.DatabaseError as error:
            if is_locked(error):
                raise
        return pages

    def rows_between(self, first: int, last: int) -> Iterator[RunRow]:
        """Yield the readable rows of runs ``first`` to ``last``, newest first."""
        try:
            rows = self._db.execute(statements.RUNS_BETWEEN, (first, last)).fetchall()
        except sqlite3.DatabaseError as error:
            if is_locked(error):
                raise
            if first == last:
                self._add_unreadable(first, str(error))
                return
            middle = (first + last) // 2
            yield from self.rows_between(middle + 1, last)
            yield from self.rows_between(first, middle)
        else:
            yield from map(RunRow._make, rows)

    def _add_unreadable(self, no: int, error: str) -> None:
        self._last_error = error
        for at, (first, last) in enumerate(self.unreadable):
            if no in (first - 1, last + 1):
                self.unreadable[at] = min(first, no), max(last, no)
                return
        self.unreadable.append((no, no))
