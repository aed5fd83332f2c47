"""The last pages of open runs. The checksum of a run's next page is computed from its last page."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from fractal_rm.adapters.sqlite.format import statements

LastPage = tuple[int, int, int]  # run number, number of pages, checksum of the last page


class LastPages:
    """A cache of the committed last pages.

    The pages are read at the first use: a start may find many open runs, but not change them.
    """

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._last_pages: dict[str, LastPage] | None = None

    def all(self) -> Mapping[str, LastPage]:
        """Return all last pages by run id, in order of acceptance. Raises sqlite3.Error."""
        if self._last_pages is None:
            rows = self._db.execute(statements.OPEN_RUNS)
            self._last_pages = {run_id: (no, pages, chain) for no, run_id, pages, chain in rows}
        return self._last_pages

    def update(self, last_pages: Mapping[str, LastPage]) -> None:
        """Store the last pages of runs after a commit."""
        if self._last_pages is not None:
            self._last_pages.update(last_pages)

    def remove(self, run_ids: Iterable[str]) -> None:
        """Remove runs that have ended, or were moved to another journal."""
        if self._last_pages is not None:
            for run_id in run_ids:
                self._last_pages.pop(run_id, None)
