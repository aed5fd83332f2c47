"""All journals of a state folder, read-only: readers never hold up the writer (WAL)."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from fractal_rm.adapters.sqlite.chain import ChainBroken, verified
from fractal_rm.domain.errors import JournalDamaged
from fractal_rm.domain.run import State
from fractal_rm.engine.ports import Ledger, RunDetail, RunSummary, TimedFact

_SUMMARY = "SELECT id, flow, state, reason, source, node, accepted_ms, settled_ms FROM runs"

# Runs whose pages were dropped for their age are in neither count.
_STATES = (
    "SELECT flow, state, count(*), sum(duplicates) FROM runs WHERE pages > 0 GROUP BY flow, state"
)
_RECEIVED = (
    "SELECT json_extract(CAST(body AS TEXT), '$[0][1].flow') AS of, count(*) FROM pages WHERE n = 1"
    " GROUP BY of"
)


class SqliteHistory:
    """Port `History`. Opens a connection for each question: questions are rare."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def runs(
        self,
        *,
        state: State | None = None,
        flow: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[RunSummary]:
        """The newest runs first; see the port."""
        wanted = {"state = ?": state and state.value, "flow = ?": flow}
        conditions = [text for text, value in wanted.items() if value is not None]
        values = [value for value in wanted.values() if value is not None]
        if before is not None:
            # Ids sort by time; a handed-off run has the id that its first node gave it.
            conditions.append("id < ?")
            values.append(before)
        where = " WHERE " + " AND ".join(conditions) if conditions else ""
        statement = f"{_SUMMARY}{where} ORDER BY id DESC LIMIT ?"
        found = [
            RunSummary(*_typed(row), journal=name)
            for name, db in self._journals()
            for row in db.execute(statement, (*values, limit))
        ]
        return sorted(found, key=lambda run: run.id, reverse=True)[:limit]

    def run(self, run_id: str) -> RunDetail | None:
        """One run, or None. Raises JournalDamaged where its facts do not hold."""
        for name, db in self._journals():
            row = db.execute(f"{_SUMMARY} WHERE id = ?", (run_id,)).fetchone()
            if row is None:
                continue
            no, count, last = db.execute(
                "SELECT no, pages, sum FROM runs WHERE id = ?", (run_id,)
            ).fetchone()
            rows = db.execute("SELECT n, body, sum FROM pages WHERE run = ? ORDER BY n", (no,))
            try:
                # A run whose pages were dropped for their age has none, and no checksum.
                facts = verified(run_id, rows, count, last) if count else []
            except ChainBroken as error:
                raise JournalDamaged(f"{name}: {error}") from error
            timed = [TimedFact(at_ms, fact) for at_ms, fact in facts]
            return RunDetail(RunSummary(*_typed(row), journal=name), timed)
        return None

    def ledger(self) -> list[Ledger]:
        """The accounts; see the port."""
        states: dict[str | None, Counter[State]] = {}
        received: Counter[str | None] = Counter()
        duplicates: Counter[str | None] = Counter()
        for _, db in self._journals():
            for flow, count in db.execute(_RECEIVED):
                received[flow] += count
            for flow, state, count, again in db.execute(_STATES):
                states.setdefault(flow, Counter())[State(state)] += count
                duplicates[flow] += again
        return [
            Ledger(flow, received[flow], states.get(flow, {}), duplicates[flow])
            for flow in sorted(received.keys() | states.keys(), key=str)
        ]

    def _journals(self) -> Iterator[tuple[str, sqlite3.Connection]]:
        for path in sorted(self._folder.glob("*.journal")):
            with closing(open_read_only(path)) as db:
                try:
                    db.execute("BEGIN")  # every question is about one moment
                    yield path.stem, db
                except sqlite3.Error as error:
                    raise JournalDamaged(f"{path} cannot be read ({error})") from error


def open_read_only(path: Path) -> sqlite3.Connection:
    """Open a journal for reading. Raises JournalDamaged."""
    try:
        return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=5)
    except sqlite3.Error as error:
        raise JournalDamaged(f"{path} cannot be opened ({error})") from error


def _typed(row: tuple[Any, ...]) -> tuple[Any, ...]:
    return (*row[:2], State(row[2]), *row[3:])
