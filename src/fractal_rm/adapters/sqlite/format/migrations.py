"""The migrations from each format of the history to the next.

Each step is one transaction, which also sets the number of the new format. If the process is killed
during a step, the file is unchanged and the next start repeats the step.

1  was never released; its checksums differ.
2  has the same tables as format 3.
3  allows results that are bytes, and base64 in flows.
4  adds `ended_ahead_ms`. It is 0 for older runs, which were timed by the wall clock only.
5  adds a checksum to every row, and the tables `faults` and `spans`. The log was introduced with
   this format, so `meta` gets the position `projected`.
6  adds the table `blobs`.
7  adds the tables `blocks`, `handled`, `minutes` and `hours`. No operator could repeat or discard a
   run before. Runs that ended before the migration are not counted in `minutes` and `hours`.
"""

# ruff: noqa: S608 - statements are built from constants of this package only
from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any
from zlib import crc32

from fractal_rm.adapters.log.run_updates import RunUpdate
from fractal_rm.adapters.sqlite.format import schema, statements
from fractal_rm.adapters.sqlite.format.bulk import execute_bulk
from fractal_rm.adapters.sqlite.format.faults import Faults
from fractal_rm.adapters.sqlite.format.spans import add_to_spans, group_ended
from fractal_rm.adapters.sqlite.read.open_runs import load_run
from fractal_rm.domain.run import parent_id_of
from fractal_rm.domain.state import TROUBLE_STATES

Step = Callable[[sqlite3.Connection], None]
_ROWS_AT_ONCE = 4_096
_RUNS = "no, id, flow, state, reason, source, node, accepted_ms, settled_ms"
# The columns of `runs` in format 5, as expressions over the columns of format 4 or 3. `parent` and
# `fault` are NULL until `_set_parents_and_faults` sets both from the facts.
RUNS_OF_4 = f"{_RUNS}, ended_ahead_ms, NULL, NULL, pages, sum, duplicates"
RUNS_OF_3 = f"{_RUNS}, 0, NULL, NULL, pages, sum, duplicates"


def migrate(db: sqlite3.Connection, old_format: int) -> None:
    """Apply every step after ``old_format``. Raises sqlite3.Error; a failed step is undone."""
    for number, step in STEPS.items():
        if number > old_format:
            _apply(db, number, step)


def create(db: sqlite3.Connection) -> None:
    """Create the tables in an empty file. Raises sqlite3.Error; the file is then still empty."""
    _apply(db, schema.FORMAT, _create)


def add_views_of_old_format(db: sqlite3.Connection, file_format: int) -> None:
    """Create temporary views, so that a connection can read an old file like a new one.

    There is no view for the tables `blobs`, `blocks` and `minutes`, which old files do not have.
    """
    if file_format < schema.HANDLED_SINCE:
        _execute(db, schema.BLOCKS_AND_HANDLED.replace("CREATE TABLE", "CREATE TEMP TABLE"))
    if file_format >= schema.CHECKSUMS_SINCE:  # the file has these tables
        return
    values = RUNS_OF_3 if file_format < 4 else RUNS_OF_4
    _execute(db, schema.LIST_TABLES.replace("CREATE TABLE", "CREATE TEMP TABLE"))
    _execute(
        db,
        f"CREATE TEMP VIEW runs ({statements.RUN_COLUMNS}, sum) AS"
        f" SELECT {values}, row_sum({values}) FROM main.runs;"
        "CREATE TEMP VIEW meta (name, value, sum) AS"
        " SELECT name, value, row_sum(name, value) FROM main.meta",
    )
    _add_spans(db)


def schema_checksum(db: sqlite3.Connection) -> int:
    """Return the checksum of the table definitions, the application id and the format."""
    definitions = repr([
        db.execute("PRAGMA application_id").fetchone(),
        db.execute("PRAGMA user_version").fetchone(),
        *db.execute("SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"),
    ])  # fmt: skip
    return crc32(definitions.encode("utf-8", "surrogateescape"))


def _apply(db: sqlite3.Connection, number: int, step: Step) -> None:
    db.execute("BEGIN IMMEDIATE")
    try:
        step(db)
        db.execute(f"PRAGMA user_version = {number}")
        if number >= schema.CHECKSUMS_SINCE:
            db.execute(statements.SET_META, {"name": "schema", "value": schema_checksum(db)})
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _create(db: sqlite3.Connection) -> None:
    _execute(db, schema.CREATE)
    db.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
    for name, value in {**dict.fromkeys(schema.COUNTS, 0), "clean": 1}.items():
        db.execute(statements.SET_META, {"name": name, "value": value})


def _to_3(_: sqlite3.Connection) -> None:
    """Do nothing: the tables are the same."""


def _to_4(db: sqlite3.Connection) -> None:
    db.execute("ALTER TABLE runs ADD COLUMN ended_ahead_ms INTEGER NOT NULL DEFAULT 0")


def _to_5(db: sqlite3.Connection) -> None:
    db.execute("DROP VIEW story")
    _rewrite(db, "runs", schema.RUNS, RUNS_OF_4)
    _rewrite(db, "keys", schema.KEYS, "key, run, digest, until_ms")
    _rewrite(db, "meta", schema.META, "name, value")
    _execute(db, schema.LIST_TABLES + schema.INDEXES)
    _add_spans(db)
    (count,) = db.execute("SELECT count(*) FROM runs").fetchone()
    (accepted,) = db.execute("SELECT value FROM meta WHERE name = 'accepted'").fetchone()
    values = {"projected": 0, "ended_until": 0, "dropped": accepted - count}
    for name, value in (values | {"trouble_bytes": _set_parents_and_faults(db)}).items():
        db.execute(statements.SET_META, {"name": name, "value": value})


def _to_6(db: sqlite3.Connection) -> None:
    _execute(db, schema.BLOBS)
    db.execute(statements.SET_META, {"name": "blob_bytes", "value": 0})


def _to_7(db: sqlite3.Connection) -> None:
    _execute(db, schema.BLOCKS_AND_HANDLED + schema.MINUTES + schema.HANDLED_INDEX)
    db.execute(statements.FILL_BLOCKS)


def _rewrite(db: sqlite3.Connection, table: str, definition: str, values: str) -> None:
    """Replace a table by a new table with checksums. ``values`` are the columns to copy."""
    db.execute(f"ALTER TABLE {table} RENAME TO old_{table}")
    _execute(db, definition)
    db.execute(f"INSERT INTO {table} SELECT {values}, row_sum({values}) FROM old_{table}")
    db.execute(f"DROP TABLE old_{table}")


def _add_spans(db: sqlite3.Connection) -> None:
    cursor = db.execute(
        "SELECT no, flow, state, accepted_ms, id, settled_ms FROM runs WHERE settled_ms IS NOT NULL"
    )
    while rows := cursor.fetchmany(_ROWS_AT_ONCE):
        add_to_spans(db, group_ended(rows))


def _set_parents_and_faults(db: sqlite3.Connection) -> int:
    """Set `parent` and `fault` of runs. Returns the size of the runs in trouble, in bytes."""
    faults, trouble_bytes, last_no = Faults(db), 0, 0
    states = ",".join(f"'{state.value}'" for state in TROUBLE_STATES)
    next_runs = (
        "SELECT no, id, reason FROM runs WHERE no > ? AND pages > 0"
        f" AND (source = 'flow' OR state IN ({states})) ORDER BY no LIMIT {_ROWS_AT_ONCE}"
    )
    while rows := db.execute(next_runs, (last_no,)).fetchall():
        last_no, *_ = rows[-1]
        values = [_parent_and_fault(db, faults, no, run_id, reason) for no, run_id, reason in rows]
        execute_bulk(db, statements.INSERT_FAULTS, faults.new_rows)
        faults.commit()
        db.executemany(statements.SET_PARENT_AND_FAULT, values)
        in_trouble = [each["no"] for each in values if each["fault"] is not None]
        trouble_bytes += db.execute(statements.TROUBLE_BYTES, (str(in_trouble),)).fetchone()[0]
    return trouble_bytes


def _parent_and_fault(
    db: sqlite3.Connection, faults: Faults, no: int, run_id: str, reason: str
) -> dict[str, Any]:
    values: dict[str, Any] = {"no": no, "parent": None, "fault": None}
    run = load_run(db, run_id)
    if run is not None:
        values["parent"] = parent_id_of(run.accepted)
        if run.state in TROUBLE_STATES:
            update = RunUpdate(run_id, reason=reason)
            update.copy_state_of(run)
            values["fault"] = faults.row_number_of(db, update, no, {})
    return values


def _execute(db: sqlite3.Connection, script: str) -> None:
    """Execute statements in the current transaction, which `executescript` would commit."""
    for statement in script.split(";"):
        if statement.strip():
            db.execute(statement)


STEPS: dict[int, Step] = {3: _to_3, 4: _to_4, 5: _to_5, 6: _to_6, 7: _to_7}
