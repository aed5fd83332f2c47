"""The scrub: a slow verification of the whole history while the node runs.

The scrub reads every row and blob in each round, to find damage in parts that are seldom read. It
verifies checksums, not the meaning of facts. Its connection has a small cache, so that rows are
read from the disk. Damage raises no error. Damage is reported until a round finds no damage.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.sqlite.errors import is_locked
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.page_chain import ChainBroken, verify_chain
from fractal_rm.adapters.sqlite.format.row_sums import decode_damaged
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.read.salvage import Salvage
from fractal_rm.adapters.sqlite.verify import rows as verify
from fractal_rm.adapters.sqlite.verify.blobs import (
    ROW_BYTES,
    ROWS_AT_ONCE,
    Part,
    blob_query,
    verify_blobs,
)
from fractal_rm.domain.descriptors import is_out_of_descriptors

BYTES_PER_S = 32 * 1024
SLICE_BYTES = 256 * 1024  # the most that one call reads
ROUND_EVERY_S = 3_600  # so that a small history is not read all the time
CACHE_KIB = 128
SMALL_TABLES_BYTES = 64 * 1024  # about the cost of reading the small tables
MAX_PROBLEMS = 20  # the most that one round reports


class Scrub:
    """Call `use`, then `read_more` regularly. ``monotonic_s`` is the clock for its speed limit."""

    def __init__(
        self, monotonic_s: Callable[[], float], bytes_per_s: int, blobs: BlobFiles
    ) -> None:
        self._blobs = blobs
        self.monotonic_s = monotonic_s
        self._bytes_per_s = bytes_per_s
        self._last_call_s = self._next_round_s = monotonic_s()
        self._db: sqlite3.Connection | None = None
        self._round: Iterator[Part] | None = None
        self._problems: list[str] = []  # found in this round
        self._last_problems: list[str] = []  # found in the previous round
        self.rounds = 0  # completed rounds

    @property
    def damage(self) -> str | None:
        """The problems found, as a sentence; None if there are none."""
        problems = list(dict.fromkeys((*self._problems, *self._last_problems)))
        if not problems:
            return None
        others = f", and {len(problems) - 1} more" if len(problems) > 1 else ""
        return f"the history is damaged: {problems[0]}{others}"

    def use(self, db: sqlite3.Connection) -> None:
        """Read with ``db`` from now on. Reads one row, so that SQLite opens its files now."""
        self._db = db
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.text_factory = decode_damaged
        db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()

    def add_problem(self, problem: str) -> None:
        """Add a problem, which another part of the program may have found.

        The problem is reported until the end of the next round.
        """
        if problem not in self._problems and len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)

    def read_more(self) -> None:
        """Read as many bytes as the time since the last call allows. Damage raises no error."""
        now_s = self.monotonic_s()
        allowed_bytes = min(int((now_s - self._last_call_s) * self._bytes_per_s), SLICE_BYTES)
        self._last_call_s = now_s
        while allowed_bytes > 0:
            part = next(self._round, None) if self._round is not None else None
            if part is None:
                self._end_round()
                if now_s >= self._next_round_s:
                    self._begin_round(now_s)
                return
            read_bytes, problems = part
            for problem in problems:
                self.add_problem(problem)
            allowed_bytes -= read_bytes

    def close(self) -> None:
        """Close the connection."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _begin_round(self, now_s: float) -> None:
        self._next_round_s = now_s + ROUND_EVERY_S
        if self._db is not None:
            self._round = _round(self._db, self._blobs)

    def _end_round(self) -> None:
        if self._round is not None:
            self._round = None
            self.rounds += 1
            self._last_problems, self._problems = self._problems, []


def _round(db: sqlite3.Connection, files: BlobFiles) -> Iterator[Part]:
    """Verify all tables and blobs once, in parts."""
    try:
        last = Salvage(db).last_no()
    except sqlite3.Error as error:
        yield SLICE_BYTES, [f"it cannot be read ({error})"]
        last = 0
    for first in range(1, last + 1, ROWS_AT_ONCE):
        yield _guarded(lambda first=first: _runs(db, first, first + ROWS_AT_ONCE - 1))
    yield _guarded(lambda: _small_tables(db))
    key: str | None = ""
    while key is not None:
        part, key = _keys(db, key)
        yield part
    for table in verify.COUNT_TABLES:
        counted: tuple[Any, ...] | None = (-(1 << 63), "", "")
        while counted is not None:
            part, counted = _counts(db, table, counted)
            yield part
    try:
        yield from verify_blobs(db, files, blob_query(db))
    except Exception as error:  # noqa: BLE001 - damaged content may raise anything
        is_temporary = is_locked(error) or is_out_of_descriptors(error)
        yield ROW_BYTES, [] if is_temporary else [f"blobs cannot be read ({error})"]


def _guarded(verify_part: Callable[[], Part]) -> Part:
    try:
        return verify_part()
    except Exception as error:  # noqa: BLE001 - damaged content may raise anything
        return ROW_BYTES, [] if is_locked(error) else [f"reading stopped at an error ({error})"]


def _runs(db: sqlite3.Connection, first: int, last: int) -> Part:
    salvage = Salvage(db)
    rows = list(salvage.rows_between(first, last))
    pages: dict[int, list[Any]] = {}
    read_bytes, problems = len(rows) * ROW_BYTES, list(verify.invalid_run_rows(rows))
    if salvage.unreadable:
        problems += salvage.problems
    try:
        for no, n, body, page_sum in db.execute(statements.PAGES_BETWEEN, (first, last)):
            pages.setdefault(no, []).append((n, body, page_sum))
            read_bytes += ROW_BYTES + len(body)
    except sqlite3.DatabaseError as error:
        return read_bytes, [
            *problems,
            f"facts of runs no. {first} to {last} cannot be read ({error})",
        ]
    problems += filter(None, (_broken_chain(row, pages.pop(row.no, [])) for row in rows))
    problems += [f"run no. {no} has pages, but no row" for no in pages if not salvage.unreadable]
    return read_bytes, problems + _missing_in_index(db, rows)


def _broken_chain(row: RunRow, pages: list[Any]) -> str | None:
    try:
        verify_chain(row.id, pages, row.pages, row.chain)
    except ChainBroken as error:
        return str(error)
    return None


def _missing_in_index(db: sqlite3.Connection, rows: list[Any]) -> list[str]:
    """Return the runs that an index does not find, as sentences."""
    try:
        return [
            f"the index `{name}` does not find run no. {no}"
            for name, column in statements.INDEXES_OF_RUNS
            for no in _not_found(db, name, [row for row in rows if row[column] is not None], column)
        ]
    except sqlite3.DatabaseError as error:
        return [f"an index cannot be read ({error})"]


def _not_found(db: sqlite3.Connection, index: str, rows: list[Any], column: int) -> list[Any]:
    """Return the run numbers or trigger ids of the rows that an index does not find.

    ``column`` is the position of the indexed column in the rows.
    """
    head, tail = statements.select_missing_in(index)
    missing_rows = execute_bulk(db, head, [(row[column], row[0]) for row in rows], tail)
    return [number_or_key for (number_or_key,) in missing_rows]


def _small_tables(db: sqlite3.Connection) -> Part:
    problems = list(islice(verify.invalid_small_tables(db), MAX_PROBLEMS))
    (still_open,) = db.execute(statements.COUNT_OPEN).fetchone()
    (expected,) = db.execute(statements.EXPECTED_OPEN).fetchone()
    if still_open != expected:
        problems.append(f"it should have {expected} open runs, but has {still_open}")
    for table, indexes in (
        ("runs", statements.INDEXES_OF_RUNS), ("keys", statements.INDEXES_OF_KEYS),
    ):  # fmt: skip
        for name, _ in indexes:
            db.execute(statements.read_index(table, name)).fetchall()
    db.execute(statements.COUNT_REPEATED).fetchone()
    return SMALL_TABLES_BYTES, problems


def _counts(
    db: sqlite3.Connection, table: str, last_key: tuple[Any, ...]
) -> tuple[Part, tuple[Any, ...] | None]:
    """Verify the next rows of ``minutes`` or ``hours``; also returns the last key, as `_keys`."""
    try:
        rows = db.execute(statements.counts_after(table), (*last_key, ROWS_AT_ONCE)).fetchall()
        problems = list(verify.invalid_rows(f"row of {table}", rows))
    except Exception as error:  # noqa: BLE001 - damaged content may raise anything
        return (ROW_BYTES, [] if is_locked(error) else [f"{table} cannot be read ({error})"]), None
    new_last_key = rows[-1][:3] if len(rows) == ROWS_AT_ONCE else None
    return (len(rows) * ROW_BYTES + 1, problems), new_last_key


def _keys(db: sqlite3.Connection, last_key: str) -> tuple[Part, str | None]:
    """Verify the next trigger ids after ``last_key``.

    Also returns the last of these ids, or None if there are no more ids.
    """
    try:
        rows = db.execute(statements.READ_KEYS_AFTER, (last_key, ROWS_AT_ONCE)).fetchall()
        problems = list(verify.invalid_rows("trigger id", rows))
        problems += [
            f"the index `{name}` does not find trigger id {verify.printable(key)}"
            for name, column in statements.INDEXES_OF_KEYS
            for key in _not_found(db, name, rows, column)
        ]
    except Exception as error:  # noqa: BLE001 - damaged content may raise anything
        return (ROW_BYTES, [f"trigger ids cannot be read ({error})"]), None
    new_last_key = None
    if len(rows) == ROWS_AT_ONCE:  # there may be more
        new_last_key, *_ = rows[-1]
    return (len(rows) * ROW_BYTES + 1, problems), new_last_key
