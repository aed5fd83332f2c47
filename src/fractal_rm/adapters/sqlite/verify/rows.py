"""Verify rows of a history by their checksums, and tables by their counts and references.

The functions yield problems as sentences. They raise sqlite3.Error if SQLite cannot read a row.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from typing import Any

from fractal_rm.adapters.sqlite.format.migrations import schema_checksum
from fractal_rm.adapters.sqlite.format.row_sums import checksum_matches
from fractal_rm.adapters.sqlite.format.spans import BLOCK_BITS, covers
from fractal_rm.domain.flow import version_of

_RUNS_OUTSIDE_BLOCKS = """
SELECT of, low, high FROM (
    SELECT no >> 14 AS of, min(accepted_ms) AS low, max(accepted_ms) AS high FROM runs GROUP BY of
) LEFT JOIN (  -- with the log, a block has two rows
    SELECT block, min(first_ms) AS first, max(last_ms) AS last FROM blocks GROUP BY block
) ON block = of WHERE first IS NULL OR first > low OR last < high
"""
COUNT_TABLES = ("minutes", "hours")
SMALL_TABLES = ("meta", "faults", "spans", "blocks", "handled")


def invalid_rows(name: str, rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Find rows that do not match their checksum, which is their last value."""
    for row in rows:
        if not checksum_matches(row):
            key, *_ = row
            yield f"the {name} {printable(key)} does not match its checksum"


def invalid_run_rows(rows: Iterable[tuple[Any, ...]]) -> Iterator[str]:
    """Find rows of ``runs`` that do not match their checksum."""
    for row in rows:
        no, run_id, *_ = row
        if not checksum_matches(row):
            yield f"the row of run {printable(run_id)} (no. {no}) does not match its checksum"


def invalid_small_tables(db: sqlite3.Connection) -> Iterator[str]:
    """Find invalid rows of the small tables and of ``flows``, and changed table definitions."""
    for table in SMALL_TABLES:
        yield from invalid_rows(f"row of {table}", db.execute(f"SELECT * FROM {table}"))  # noqa: S608
    for version, body in db.execute("SELECT version, body FROM flows"):
        if not isinstance(body, bytes) or version_of(body) != version:
            yield f"flow version {printable(version)} does not match its checksum"
    (expected,) = db.execute("SELECT value FROM main.meta WHERE name = 'schema'").fetchone() or (0,)
    if expected != schema_checksum(db):
        yield "the definitions of its tables do not match their checksum"


def wrong_counts(db: sqlite3.Connection) -> Iterator[str]:
    """Compare the number of runs with the counts in ``meta``."""
    counts = dict(db.execute("SELECT name, value FROM meta"))
    runs, still_open = db.execute(
        "SELECT count(*), coalesce(sum(settled_ms IS NULL), 0) FROM runs"
    ).fetchone()
    expected = counts.get("accepted", 0) - counts.get("settled", 0)
    if still_open != expected:
        yield f"it should have {expected} open runs, but has {still_open}"
    expected = counts.get("accepted", 0) - counts.get("dropped", 0)
    if runs != expected and "dropped" in counts:  # format 4 does not count dropped runs
        yield f"it should have {expected} runs, but has {runs}"


def missing_references(db: sqlite3.Connection) -> Iterator[str]:
    """Find rows that refer to a missing row, and ended runs that ``spans`` does not cover."""
    for (run_id,) in db.execute(
        "SELECT id FROM runs WHERE fault IS NOT NULL AND fault NOT IN (SELECT no FROM faults)"
    ):
        yield f"run {printable(run_id)} refers to a missing row of `faults`"
    for (key,) in db.execute("SELECT key FROM keys WHERE run NOT IN (SELECT no FROM runs)"):
        yield f"trigger id {printable(key)} refers to a missing run"
    spans: dict[tuple[int, str, str], int] = {}
    for block, flow, state, zones in db.execute("SELECT block, flow, state, zones FROM spans"):
        key = block, flow, state
        spans[key] = spans.get(key, 0) | zones
    for no, flow, state in db.execute(
        "SELECT no, flow, state FROM runs WHERE settled_ms IS NOT NULL"
    ):
        if not covers(spans.get((no >> BLOCK_BITS, flow or "", state), 0), no):
            yield f"lists by flow and state do not find run no. {no}"


def runs_outside_blocks(db: sqlite3.Connection) -> Iterator[str]:
    """Find runs whose times ``blocks`` does not cover."""
    for block, first_ms, last_ms in db.execute(_RUNS_OUTSIDE_BLOCKS):
        yield f"lists by time do not find runs of block {block} ({first_ms} to {last_ms} ms)"


def invalid_counts(db: sqlite3.Connection) -> Iterator[str]:
    """Find invalid rows of the counts by minute and by hour."""
    for table in COUNT_TABLES:
        yield from invalid_rows(f"row of {table}", db.execute(f"SELECT * FROM {table}"))  # noqa: S608


def printable(value: object) -> str:
    """Return a value, which may be damaged, as printable text of at most 80 characters."""
    text = value if isinstance(value, str) else repr(value)
    return text.encode("utf-8", "replace").decode()[:80]
