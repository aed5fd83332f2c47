"""The scrub: a slow look at every row and every blob of the history, round after round.

It finds what a disk did to rows that nobody has asked for yet. It verifies checksums, not what the
facts mean, and reads with a connection of its own, whose cache is small: what is found is what the
file says. Nothing that it meets is raised: damage is noted, and is shown until a round finds none.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from fractal_rm.adapters.log.blobs import BlobFiles
from fractal_rm.adapters.sqlite import statements, verify
from fractal_rm.adapters.sqlite.blobs import AT_ONCE, ROW_BYTES, Found, has_in, look_at_blobs
from fractal_rm.adapters.sqlite.causes import is_held
from fractal_rm.adapters.sqlite.chain import ChainBroken, chain_holds
from fractal_rm.adapters.sqlite.many import many_at_once
from fractal_rm.adapters.sqlite.salvage import Salvage
from fractal_rm.adapters.sqlite.sums import decode_any
from fractal_rm.domain.none_left import none_left

BYTES_PER_S = 32 * 1024
SLICE_BYTES = 256 * 1024  # at most so much at once, however long nothing was read
ROUND_EVERY_S = 3_600  # so that a small history is not read all day
CACHE_KIB = 128
KEPT = 20  # problems of a round


class Scrub:
    """Call `read_on` every so often, after `open`."""

    def __init__(
        self, monotonic_s: Callable[[], float], bytes_per_s: int, blobs: BlobFiles
    ) -> None:
        self._blobs = blobs
        self._next_round_s = monotonic_s()
        self._monotonic_s = monotonic_s
        self._bytes_per_s = bytes_per_s
        self._since_s = monotonic_s()
        self._db: sqlite3.Connection | None = None
        self._round: Iterator[Found] = iter(())
        self._reading = False
        self._found: list[str] = []  # in this round
        self._last_found: list[str] = []  # in the one before
        self.rounds = 0  # that have ended

    @property
    def damage(self) -> str | None:
        """What does not hold, as a sentence; None: nothing was found."""
        found = list(dict.fromkeys((*self._found, *self._last_found)))
        if not found:
            return None
        more = f", and {len(found) - 1} more" if len(found) > 1 else ""
        return f"the history is damaged: {found[0]}{more}"

    def open(self, db: sqlite3.Connection) -> None:
        """Take a connection, while the files are where they are expected."""
        self._db = db
        db.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
        db.text_factory = decode_any
        db.execute("SELECT 1 FROM sqlite_master LIMIT 1").fetchone()

    def note(self, problem: str) -> None:
        """Somebody else has met damage: it is shown until the round after this has ended."""
        if problem not in self._found and len(self._found) < KEPT:
            self._found.append(problem)

    def read_on(self) -> None:
        """Read as much as the time since the last call allows. Raises nothing for damage."""
        now_s = self._monotonic_s()
        left = min(int((now_s - self._since_s) * self._bytes_per_s), SLICE_BYTES)
        self._since_s = now_s
        while left > 0:
            try:
                read, problems = next(self._round)
            except StopIteration:
                self._end_round()
                if now_s >= self._next_round_s:
                    self._begin_round(now_s)
                return
            for problem in problems:
                self.note(problem)
            left -= read

    def close(self) -> None:
        """Let go of the file."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _begin_round(self, now_s: float) -> None:
        self._next_round_s = now_s + ROUND_EVERY_S
        if self._db is not None:
            self._round, self._reading = _round(self._db, self._blobs), True

    def _end_round(self) -> None:
        if self._reading:
            self._reading = False
            self.rounds += 1
            self._last_found, self._found = self._found, []


def _round(db: sqlite3.Connection, files: BlobFiles) -> Iterator[Found]:
    """Once through all tables, in parts."""
    try:
        last = Salvage(db).last_no()
    except sqlite3.Error as error:
        yield SLICE_BYTES, [f"it cannot be read ({error})"]
        last = 0
    for first in range(1, last + 1, AT_ONCE):
        yield _look(lambda first=first: _runs(db, first, first + AT_ONCE - 1))
    yield _look(lambda: _small(db))
    key: str | None = ""
    while key is not None:
        found, key = _keys(db, key)
        yield found
    try:
        yield from look_at_blobs(db, files, has_in(db))
    except Exception as error:  # noqa: BLE001 - what is damaged may be of any type
        passes = is_held(error) or none_left(error)
        yield ROW_BYTES, [] if passes else [f"blobs cannot be read ({error})"]


def _look(look: Callable[[], Found]) -> Found:
    try:
        return look()
    except Exception as error:  # noqa: BLE001 - what is damaged may be of any type
        return ROW_BYTES, [] if is_held(error) else [f"it cannot be read on ({error})"]


def _runs(db: sqlite3.Connection, first: int, last: int) -> Found:
    salvage = Salvage(db)
    rows = list(salvage.stretch(first, last))
    pages: dict[int, list[Any]] = {}
    read, problems = len(rows) * ROW_BYTES, list(verify.broken_run_rows(rows))
    if salvage.lost:
        problems += salvage.unreadable
    try:
        for no, *page in db.execute(statements.PAGES_BETWEEN, (first, last)):
            pages.setdefault(no, []).append(page)
            read += ROW_BYTES + len(page[1])
    except sqlite3.DatabaseError as error:
        return read, [*problems, f"facts of runs no. {first} to {last} cannot be read ({error})"]
    problems += filter(None, (_broken_chain(row, pages.pop(row[0], [])) for row in rows))
    problems += [f"pages of run no. {no} have no run" for no in pages if not salvage.lost]
    return read, problems + _unindexed(db, rows)


def _broken_chain(row: Any, pages: list[Any]) -> str | None:
    try:
        chain_holds(row[1], pages, row[12], row[13])
    except ChainBroken as error:
        return str(error)
    return None


def _unindexed(db: sqlite3.Connection, rows: list[Any]) -> list[str]:
    """Runs that the indexes do not find."""
    try:
        return [
            f"the index `{name}` does not find run no. {no}"
            for name, column in statements.INDEXED
            for no in _not_found(db, name, [row for row in rows if row[column] is not None], column)
        ]
    except sqlite3.DatabaseError as error:
        return [f"an index cannot be read ({error})"]


def _not_found(db: sqlite3.Connection, index: str, rows: list[Any], column: int) -> list[Any]:
    """Of rows, what they are found by where an index does not find them."""
    head, tail = statements.not_found_by(index)
    found = many_at_once(db, head, [(row[column], row[0]) for row in rows], tail)
    return [by for (by,) in found]


def _small(db: sqlite3.Connection) -> Found:
    problems = list(islice(verify.broken_small(db), KEPT))
    (still_open,) = db.execute(statements.COUNT_OPEN).fetchone()
    (expected,) = db.execute(statements.EXPECTED_OPEN).fetchone()
    if still_open != expected:
        problems.append(f"it should hold {expected} unfinished runs and holds {still_open}")
    for table, indexes in (("runs", statements.INDEXED), ("keys", statements.KEYS_INDEXED)):
        for name, _ in indexes:
            db.execute(statements.touch(table, name)).fetchall()
    return SLICE_BYTES // 4, problems


def _keys(db: sqlite3.Connection, after: str) -> tuple[Found, str | None]:
    """Trigger ids that follow on one, and the last of them; None: there are no more."""
    try:
        rows = db.execute(statements.KEYS_AFTER, (after, AT_ONCE)).fetchall()
        problems = list(verify.broken_rows("trigger id", rows))
        problems += [
            f"the index `{name}` does not find trigger id {verify.shown(key)}"
            for name, column in statements.KEYS_INDEXED
            for key in _not_found(db, name, rows, column)
        ]
    except Exception as error:  # noqa: BLE001 - what is damaged may be of any type
        return (ROW_BYTES, [f"trigger ids cannot be read ({error})"]), None
    more = rows[-1][0] if len(rows) == AT_ONCE else None
    return (len(rows) * ROW_BYTES + 1, problems), more
