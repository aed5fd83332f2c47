"""What the next page of each open run follows; see chain.py."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Mapping

from fractal_rm.adapters.sqlite import statements

LastPage = tuple[int, int, int]  # a run's number, how many pages it has, the last one's checksum


class LastPages:
    """As is durable. Read when first asked for: a start may find very many, and change few."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._known: dict[str, LastPage] | None = None

    def all(self) -> Mapping[str, LastPage]:
        """By run id, in order of acceptance. Raises sqlite3.Error."""
        if self._known is None:
            rows = self._db.execute(statements.OPEN_RUNS)
            self._known = {run_id: (no, pages, chain) for no, run_id, pages, chain in rows}
        return self._known

    def written(self, last_pages: Mapping[str, LastPage]) -> None:
        """Pages of these runs have become durable."""
        if self._known is not None:
            self._known.update(last_pages)

    def ended(self, run_ids: Iterable[str]) -> None:
        """These runs are not open any more, or not here."""
        if self._known is not None:
            for run_id in run_ids:
                self._known.pop(run_id, None)
