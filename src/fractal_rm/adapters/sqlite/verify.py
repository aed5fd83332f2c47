"""Whether the rows of a history hold: each by its checksum, and together by what is counted.

Functions yield what does not, as sentences; they raise sqlite3.Error where SQLite cannot read on.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from fractal_rm.adapters.sqlite.migrations import schema_sum
from fractal_rm.adapters.sqlite.spans import BLOCK_BITS, covers
from fractal_rm.adapters.sqlite.sums import holds
from fractal_rm.domain.flow import version_of

SMALL = ("meta", "faults", "spans")


def broken_rows(name: str, rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Of rows that end with their checksum, those that do not hold."""
    for row in rows:
        if not holds(row):
            yield f"the {name} {shown(row[0])} does not match its checksum"


def broken_run_rows(rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Of whole rows of runs, those that do not hold."""
    for row in rows:
        if not holds(row):
            yield f"the row of run {shown(row[1])} (no. {row[0]}) does not match its checksum"


def broken_small(db: sqlite3.Connection) -> Iterator[str]:
    """In the small tables, and in how all are defined."""
    for table in SMALL:
        yield from broken_rows(f"row of {table}", db.execute(f"SELECT * FROM {table}"))  # noqa: S608
    for version, body in db.execute("SELECT version, body FROM flows"):
        if not isinstance(body, bytes) or version_of(body) != version:
            yield f"flow version {shown(version)} does not match its checksum"
    (defined,) = db.execute("SELECT value FROM main.meta WHERE name = 'schema'").fetchone() or (0,)
    if defined != schema_sum(db):
        yield "how its tables are defined does not match its checksum"


def wrong_counts(db: sqlite3.Connection) -> Iterator[str]:
    """Of runs that are there, against those that were counted."""
    noted = dict(db.execute("SELECT name, value FROM meta"))
    kept, still_open = db.execute(
        "SELECT count(*), coalesce(sum(settled_ms IS NULL), 0) FROM runs"
    ).fetchone()
    expected = noted.get("accepted", 0) - noted.get("settled", 0)
    if still_open != expected:
        yield f"it should hold {expected} unfinished runs and holds {still_open}"
    expected = noted.get("accepted", 0) - noted.get("dropped", 0)
    if kept != expected and "dropped" in noted:  # format 4 does not count them
        yield f"it should hold {expected} runs and holds {kept}"


def lost_references(db: sqlite3.Connection) -> Iterator[str]:
    """What points at nothing."""
    for (run_id,) in db.execute(
        "SELECT id FROM runs WHERE fault IS NOT NULL AND fault NOT IN (SELECT no FROM faults)"
    ):
        yield f"what went wrong with run {shown(run_id)} is missing"
    for (key,) in db.execute("SELECT key FROM keys WHERE run NOT IN (SELECT no FROM runs)"):
        yield f"the run of trigger id {shown(key)} is missing"
    spans: dict[tuple[int, str, str], int] = {}
    for block, flow, state, zones in db.execute("SELECT block, flow, state, zones FROM spans"):
        key = block, flow, state
        spans[key] = spans.get(key, 0) | zones
    for no, flow, state in db.execute(
        "SELECT no, flow, state FROM runs WHERE settled_ms IS NOT NULL"
    ):
        if not covers(spans.get((no >> BLOCK_BITS, flow or "", state), 0), no):
            yield f"lists by flow and state do not find run no. {no}"


def shown(value: object) -> str:
    """A value that may be damaged, as a text that can be printed."""
    text = value if isinstance(value, str) else repr(value)
    return text.encode("utf-8", "replace").decode()[:80]
