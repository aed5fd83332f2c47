"""All journals of a state folder, read-only: readers never hold up the writer (WAL)."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Generator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite.chain import ChainBroken, verified
from fractal_rm.adapters.sqlite.prepare import check_files, format_of
from fractal_rm.adapters.sqlite.recent import lay_over
from fractal_rm.adapters.sqlite.schema import PAGES
from fractal_rm.domain.errors import JournalDamaged, JournalUnreadable
from fractal_rm.domain.run import State
from fractal_rm.engine.ports import Ledger, RunDetail, RunSummary, TimedFact

SUMMARY = "SELECT id, flow, state, reason, source, node, accepted_ms, settled_ms FROM runs"

# Runs whose pages were dropped for their age are in neither count.
_STATES = (
    "SELECT flow, state, count(*), sum(duplicates) FROM runs WHERE pages > 0 GROUP BY flow, state"
)
_RECEIVED = (
    "SELECT json_extract(CAST(body AS TEXT), '$[0][1].flow') AS of, count(*) FROM pages WHERE n = 1"
    " AND json_valid(CAST(body AS TEXT)) GROUP BY of"
)
# Few pages hold the words, and few of those mean it: a payload may hold them too.
_MAYBE_TWICE = """
    SELECT runs.flow, count(DISTINCT runs.no)
    FROM pages JOIN runs ON runs.no = pages.run,
         json_each(iif(json_valid(CAST(pages.body AS TEXT)), CAST(pages.body AS TEXT), NULL))
    WHERE instr(pages.body, CAST('"maybe_twice":true' AS BLOB))
          AND json_extract(value, '$[1].maybe_twice')
    GROUP BY runs.flow
"""


class SqliteHistory:
    """Port `History`. Opens a connection for each question: questions are rare.

    Raises JournalError where a journal, or the folder, cannot be read.
    """

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
        statement = f"{SUMMARY}{where} ORDER BY id DESC LIMIT ?"
        found: list[RunSummary] = []
        for path in self._journals():
            with reading(path) as db:
                rows = db.execute(statement, (*values, limit))
                found += [summary_of(row, path) for row in rows]
        once = {run.id: run for run in found}  # while one is moved, it may be in two journals
        return sorted(once.values(), key=lambda run: run.id, reverse=True)[:limit]

    def run(self, run_id: str) -> RunDetail | None:
        """One run, or None. Raises JournalDamaged where its facts do not hold."""
        for path in self._journals():
            with reading(path) as db:
                row = db.execute(f"{SUMMARY} WHERE id = ?", (run_id,)).fetchone()
                if row is not None:
                    return RunDetail(summary_of(row, path), _facts(db, run_id))
        return None

    def ledger(self) -> list[Ledger]:
        """The accounts; see the port."""
        states: dict[str | None, Counter[State]] = {}
        received: Counter[str | None] = Counter()
        duplicates: Counter[str | None] = Counter()
        maybe_twice: Counter[str | None] = Counter()
        for path in self._journals():
            with reading(path) as db:
                for flow, count in db.execute(_RECEIVED):
                    received[flow] += count
                for flow, state, count, again in db.execute(_STATES):
                    states.setdefault(flow, Counter())[State(state)] += count
                    duplicates[flow] += again
                maybe_twice.update(dict(db.execute(_MAYBE_TWICE)))
        return [
            Ledger(flow, received[flow], states.get(flow, {}), duplicates[flow], maybe_twice[flow])
            for flow in sorted(received.keys() | states.keys(), key=str)
        ]

    def _journals(self) -> list[Path]:
        return journals_in(self._folder)


def journals_in(folder: Path) -> list[Path]:
    """The journals of a state folder; none before a node has made it. Raises JournalUnreadable."""
    try:
        files = list(folder.iterdir())  # `glob` finds nothing where it may not look
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.is_symlink():
            return []
        raise JournalUnreadable(
            f"{folder} cannot be read ({error.strerror}); do this as the user of the node, or"
            " correct state.path in comm.conf"
        ) from error
    return sorted(file for file in files if file.suffix == ".journal")


def open_runs_of(path: Path) -> list[str]:
    """The ids of the runs of a journal that have no end, as they came. Raises JournalError."""
    with reading(path) as db:
        rows = db.execute("SELECT id FROM runs WHERE settled_ms IS NULL ORDER BY no").fetchall()
    return [run_id for (run_id,) in rows]


@contextmanager
def reading(path: Path) -> Generator[sqlite3.Connection]:
    """A journal as it is at one moment, whatever is written meanwhile.

    Raises JournalUnreadable where this user cannot read it, JournalDamaged for whatever cannot be
    read in it, JournalTooNew where it may mean more than this release knows, JournalTooOld where it
    means something else.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        check_files(path)
        path.stat()  # of a link that leads nowhere, SQLite says only that it is not opened
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as db:
            db.execute("BEGIN")
            format_of(db, path)
            lay_over(db, path)
            yield db
    except UnicodeEncodeError:  # it is in what was asked for
        raise
    except (OSError, sqlite3.Error, ChainBroken, ValueError) as error:  # a state nobody knows
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> JournalDamaged | JournalUnreadable:
    if isinstance(error, PermissionError):
        what = f"{path} cannot be read ({error.strerror})"
        return JournalUnreadable(f"{what}; do this as the user of the node")
    text = str(error) if not isinstance(error, OSError) else str(error.strerror)
    if isinstance(error, sqlite3.Error) and ("unable to open" in text or "readonly" in text):
        return JournalUnreadable(
            f"{path} cannot be read ({text}), as SQLite writes beside what it reads; do this as the"
            " user of the node, or with a copy of the folder and of comm.conf"
        )
    return JournalDamaged(f"{path} cannot be read ({text})")


def summary_of(row: tuple[Any, ...], path: Path) -> RunSummary:
    """A row of SUMMARY. Raises ChainBroken where a value in it cannot be."""
    named = zip(RunSummary.__struct_fields__, (*row, path.stem), strict=True)
    try:
        return msgspec.convert(dict(named), RunSummary)
    except msgspec.ValidationError as error:
        raise ChainBroken(f"the row of run {row[0]} cannot be read: {error}") from error


def _facts(db: sqlite3.Connection, run_id: str) -> list[TimedFact]:
    no, count, last = db.execute(
        "SELECT no, pages, sum FROM runs WHERE id = ?", (run_id,)
    ).fetchone()
    if not count:  # its pages were dropped for their age, and with them the checksum
        return []
    rows = db.execute(PAGES, (no,))
    return [TimedFact(at_ms, fact) for at_ms, fact in verified(run_id, rows, count, last)]
