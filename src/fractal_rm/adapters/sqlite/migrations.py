"""The steps from each format of the history to the next.

Each step is a transaction of its own, with the number that it leads to: a process that is killed in
one finds the file as it was, and the next start takes the step again.

1 was never released: it had another checksum. 2 has the tables of 3, which has results that are
bytes, and base64 in flows. 4 has `ended_ahead_ms`: before, the wall clock was the only one, so 0 is
right. 5 has a checksum in every row, the tables beside the runs, and `projected`: the log of
format 1 begins there. 6 has `blobs`.
"""

# ruff: noqa: S608 - statements are put together from the words of this package alone
from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any
from zlib import crc32

from fractal_rm.adapters.log.stories import Story
from fractal_rm.adapters.sqlite import schema, statements
from fractal_rm.adapters.sqlite.faults import Faults
from fractal_rm.adapters.sqlite.many import many_at_once
from fractal_rm.adapters.sqlite.recover import run_from
from fractal_rm.adapters.sqlite.spans import widen
from fractal_rm.domain.state import TROUBLE

Step = Callable[[sqlite3.Connection], None]
_AT_ONCE = 4_096
_RUNS = "no, id, flow, state, reason, source, node, accepted_ms, settled_ms"
# A run of format 4 as one of format 5, without what is in its facts alone.
RUNS_OF_4 = f"{_RUNS}, ended_ahead_ms, NULL, NULL, pages, sum, duplicates"
RUNS_OF_3 = f"{_RUNS}, 0, NULL, NULL, pages, sum, duplicates"


def migrate(db: sqlite3.Connection, found: int) -> None:
    """Take every step from a format on. Raises sqlite3.Error; then the step was not taken."""
    for number, step in STEPS.items():
        if number > found:
            _in_one(db, number, step)


def create(db: sqlite3.Connection) -> None:
    """Fill an empty file. Raises sqlite3.Error; then it is empty."""
    _in_one(db, schema.FORMAT, _create)


def show_as_now(db: sqlite3.Connection, found: int) -> None:
    """For one reader, let a file of an earlier format look as one of this, but for `blobs`."""
    if found >= schema.SUMMED_SINCE:  # it has the same tables
        return
    values = RUNS_OF_3 if found < 4 else RUNS_OF_4
    _run(db, schema.BESIDE.replace("CREATE TABLE", "CREATE TEMP TABLE"))
    _run(
        db,
        f"CREATE TEMP VIEW runs ({statements.RUN}, sum) AS"
        f" SELECT {values}, row_sum({values}) FROM main.runs;"
        "CREATE TEMP VIEW meta (name, value, sum) AS"
        " SELECT name, value, row_sum(name, value) FROM main.meta",
    )
    _add_spans(db)


def schema_sum(db: sqlite3.Connection) -> int:
    """The checksum of how the tables are defined, and of the numbers that say what they are."""
    said = repr([
        db.execute("PRAGMA application_id").fetchone(),
        db.execute("PRAGMA user_version").fetchone(),
        *db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"),
    ])  # fmt: skip
    return crc32(said.encode("utf-8", "surrogateescape"))


def _in_one(db: sqlite3.Connection, number: int, step: Step) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        step(db)
        db.execute(f"PRAGMA user_version = {number}")
        if number >= schema.SUMMED_SINCE:
            db.execute(statements.NOTE, {"name": "schema", "value": schema_sum(db)})
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _create(db: sqlite3.Connection) -> None:
    _run(db, schema.CREATE)
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    for name, value in {**dict.fromkeys(schema.COUNTS, 0), "clean": 1}.items():
        db.execute(statements.NOTE, {"name": name, "value": value})


def _to_3(_: sqlite3.Connection) -> None:
    """The same tables."""


def _to_4(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE runs ADD COLUMN ended_ahead_ms INTEGER NOT NULL DEFAULT 0")


def _to_5(db: sqlite3.Connection) -> None:
    db.execute("DROP VIEW story")
    _rewrite(db, "runs", schema.RUNS, RUNS_OF_4)
    _rewrite(db, "keys", schema.KEYS, "key, run, digest, until_ms")
    _rewrite(db, "meta", schema.META, "name, value")
    _run(db, schema.BESIDE + schema.INDEXES)
    _add_spans(db)
    kept, accepted = (
        db.execute(statement).fetchone()[0]
        for statement in (
            "SELECT count(*) FROM runs", "SELECT value FROM meta WHERE name = 'accepted'"
        )
    )  # fmt: skip
    notes = {"projected": 0, "ended_until": 0, "dropped": accepted - kept}
    for name, value in (notes | {"trouble_bytes": _add_from_facts(db)}).items():
        db.execute(statements.NOTE, {"name": name, "value": value})


def _to_6(db: sqlite3.Connection) -> None:
    _run(db, schema.BLOBS)
    db.execute(statements.NOTE, {"name": "blob_bytes", "value": 0})


def _rewrite(db: sqlite3.Connection, table: str, definition: str, values: str) -> None:
    """Make a table anew, of values of the old one, each row with its checksum."""
    db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    _run(db, definition)
    db.execute(f"INSERT INTO {table} SELECT {values}, row_sum({values}) FROM old_{table}")
    db.execute(f"DROP TABLE old_{table}")


def _add_spans(db: sqlite3.Connection) -> None:
    rows = db.execute(
        "SELECT no, flow, state, accepted_ms, id FROM runs WHERE settled_ms IS NOT NULL"
    )
    while some := rows.fetchmany(_AT_ONCE):
        widen(db, some)


def _add_from_facts(db: sqlite3.Connection) -> int:
    """Parents and faults, which stand in the facts. Returns the bytes of runs in trouble."""
    faults, in_bytes, last = Faults(db), 0, 0
    states = ",".join(f"'{state.value}'" for state in TROUBLE)
    wanted = (
        "SELECT no, id, reason FROM runs WHERE no > ? AND pages > 0"
        f" AND (source = 'flow' OR state IN ({states})) ORDER BY no LIMIT {_AT_ONCE}"
    )
    while some := db.execute(wanted, (last,)).fetchall():
        last = some[-1][0]
        found = [_in_facts(db, faults, *row) for row in some]
        many_at_once(db, statements.INSERT_FAULTS, faults.new_rows)
        faults.kept()
        db.executemany(statements.SET_FROM_FACTS, found)
        chosen = [each["no"] for each in found if each["fault"] is not None]
        in_bytes += db.execute(statements.TROUBLE_BYTES, (str(chosen),)).fetchone()[0]
    return in_bytes


def _in_facts(
    db: sqlite3.Connection, faults: Faults, no: int, run_id: str, reason: str
) -> dict[str, Any]:
    found: dict[str, Any] = {"no": no, "parent": None, "fault": None}
    run = run_from(db, run_id)
    if run is not None:
        if run.origin is not None:
            found["parent"] = run.origin.rpartition(":")[0]
        if run.state in TROUBLE:
            story = Story(run_id, reason=reason)
            story.stand_as(run)
            found["fault"] = faults.number(db, story, no, {})
    return found


def _run(db: sqlite3.Connection, script: str) -> None:
    """Execute statements within the transaction: `executescript` would end it."""
    for statement in script.split(";"):
        if statement.strip():
            db.execute(statement)


STEPS: dict[int, Step] = {3: _to_3, 4: _to_4, 5: _to_5, 6: _to_6}
