"""Lets a connection to the history also read the part of the log that is not in the history yet.

This part is written to temporary tables. Then temporary views hide the tables of the file: a
statement that selects from ``runs`` or ``pages`` reads both the temporary table and the file.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

from fractal_rm.adapters.log.disk import FolderDisk, log_folder
from fractal_rm.adapters.log.replay import updates_in
from fractal_rm.adapters.log.run_updates import RunUpdates
from fractal_rm.adapters.log.segments import bodies_since
from fractal_rm.adapters.sqlite.format import schema, statements
from fractal_rm.adapters.sqlite.format.faults import Faults
from fractal_rm.adapters.sqlite.format.meta import read_projected
from fractal_rm.adapters.sqlite.read.open_runs import load_run
from fractal_rm.adapters.sqlite.write.last_pages import LastPage
from fractal_rm.adapters.sqlite.write.run_rows import RunRows
from fractal_rm.domain.journal_errors import JournalDamaged

_VIEWS = """
ALTER TABLE temp.runs RENAME TO recent_runs;
ALTER TABLE temp.pages RENAME TO recent_pages;
ALTER TABLE temp.flows RENAME TO recent_flows;
ALTER TABLE temp.faults RENAME TO recent_faults;
ALTER TABLE temp.spans RENAME TO recent_spans;
ALTER TABLE temp.meta RENAME TO recent_meta;
CREATE TEMP VIEW runs AS
    SELECT * FROM recent_runs
    UNION ALL SELECT * FROM main.runs WHERE no NOT IN (SELECT no FROM recent_runs);
CREATE TEMP VIEW pages AS SELECT * FROM recent_pages UNION ALL SELECT * FROM main.pages;
CREATE TEMP VIEW flows AS
    SELECT * FROM recent_flows
    UNION ALL SELECT * FROM main.flows WHERE version NOT IN (SELECT version FROM recent_flows);
CREATE TEMP VIEW faults AS SELECT * FROM recent_faults UNION ALL SELECT * FROM main.faults;
CREATE TEMP VIEW spans AS SELECT * FROM recent_spans UNION ALL SELECT * FROM main.spans;
CREATE TEMP VIEW meta AS SELECT * FROM recent_meta;
"""
_VIEWS_SINCE_7 = """
ALTER TABLE temp.blocks RENAME TO recent_blocks;
ALTER TABLE temp.handled RENAME TO recent_handled;
CREATE TEMP VIEW blocks AS SELECT * FROM recent_blocks UNION ALL SELECT * FROM main.blocks;
CREATE TEMP VIEW handled AS SELECT * FROM recent_handled UNION ALL SELECT * FROM main.handled;
"""


def add_log(db: sqlite3.Connection, path: Path) -> None:
    """Add the part of the log to a connection, which must be in a read transaction.

    Raises JournalError, sqlite3.Error, OSError.
    """
    disk = FolderDisk(log_folder(path))
    positions = read_projected(db)
    if positions is None or not (positions.all or log_folder(path).exists()):  # no log yet
        return
    while True:
        try:
            bodies = bodies_since(disk, positions.all)
            break
        except JournalDamaged:  # perhaps a segment was copied to the history and reused meanwhile
            last_positions = positions
            db.execute("COMMIT")
            db.execute("BEGIN")
            positions = read_projected(db)
            if positions is None or positions == last_positions:  # not reused: damaged
                raise
    updates = updates_in(bodies, lambda run_id: load_run(db, run_id), positions.ended)
    if updates:
        _write_temporary_tables(db, updates)


def _write_temporary_tables(db: sqlite3.Connection, updates: RunUpdates) -> None:
    (last_no,) = db.execute("SELECT coalesce(max(no), 0) FROM main.runs").fetchone()
    faults = Faults(db)
    (file_format,) = db.execute("PRAGMA user_version").fetchone()
    # For a file of an older format, `blocks` and `handled` are temporary tables already.
    is_older = file_format < schema.HANDLED_SINCE
    tables = schema.RUN_TABLES
    if is_older:
        tables = tables.replace(schema.BLOCKS_AND_HANDLED, "")
    for statement in tables.replace("CREATE TABLE", "CREATE TEMP TABLE").split(";"):
        db.execute(statement)
    db.execute("CREATE TEMP TABLE meta AS SELECT * FROM main.meta")
    db.executemany(
        "INSERT INTO temp.runs SELECT * FROM main.runs WHERE id = ?",
        [(run_id,) for run_id in {each.run_id for each in updates.older} | set(updates.after_end)],
    )
    rows = RunRows(db, updates.flows, last_no + 1, faults)
    rows.update(updates.older, partial(_last_pages, db, updates))
    rows.insert(updates.new)
    rows.finish(updates.duplicates, updates.after_end)
    for name, amount in rows.written.counts.items():
        db.execute(statements.ADD_TO_META, {"name": name, "amount": amount})
    for statement in (_VIEWS if is_older else _VIEWS + _VIEWS_SINCE_7).split(";"):
        db.execute(statement)


def _last_pages(db: sqlite3.Connection, updates: RunUpdates) -> dict[str, LastPage]:
    """Return the last page of each updated run that is in the history already."""
    last_pages: dict[str, LastPage] = {}
    for update in updates:
        row = None if update.new else db.execute(statements.ONE_RUN, (update.run_id,)).fetchone()
        if row is not None:
            no, page_count, last_checksum, *_ = row
            last_pages[update.run_id] = no, page_count, last_checksum
    return last_pages
