"""What the log tells and the history does not have yet, laid over it for one reader.

Tables and views of the connection itself stand before those of the file: whoever asks for ``runs``
or ``pages`` then gets both, and needs to know nothing of it.
"""

from __future__ import annotations

import sqlite3
from functools import partial
from pathlib import Path

from fractal_rm.adapters.log.disk import FolderDisk, log_folder
from fractal_rm.adapters.log.replay import told_in
from fractal_rm.adapters.log.segments import bodies_since
from fractal_rm.adapters.log.stories import Stories
from fractal_rm.adapters.sqlite import schema, statements
from fractal_rm.adapters.sqlite.faults import Faults
from fractal_rm.adapters.sqlite.last_pages import LastPage
from fractal_rm.adapters.sqlite.notes import projected
from fractal_rm.adapters.sqlite.recover import run_from
from fractal_rm.adapters.sqlite.rows import Writing
from fractal_rm.domain.journal_errors import JournalDamaged

_OVER = """
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


def lay_over(db: sqlite3.Connection, path: Path) -> None:
    """Let a connection that has begun to read see what the log tells beyond that.

    Raises JournalError, sqlite3.Error, OSError.
    """
    disk = FolderDisk(log_folder(path))
    had = projected(db)
    if had is None or not (had.all or log_folder(path).exists()):  # not begun
        return
    while True:
        try:
            bodies = bodies_since(disk, had.all)
            break
        except JournalDamaged:  # it may have been brought over, and used again, meanwhile
            before = had
            db.execute("COMMIT")
            db.execute("BEGIN")
            had = projected(db)
            if had is None or had == before:  # nothing was brought over meanwhile
                raise
    stories = told_in(bodies, lambda run_id: run_from(db, run_id), had.ended)
    if stories:
        _write_over(db, stories)


def _write_over(db: sqlite3.Connection, stories: Stories) -> None:
    (last,) = db.execute("SELECT coalesce(max(no), 0) FROM main.runs").fetchone()
    faults = Faults(db)
    for statement in schema.TOLD.replace("CREATE TABLE", "CREATE TEMP TABLE").split(";"):
        db.execute(statement)
    db.execute("CREATE TEMP TABLE meta AS SELECT * FROM main.meta")
    db.executemany(
        "INSERT INTO temp.runs SELECT * FROM main.runs WHERE id = ?",
        [(story.run_id,) for story in stories if story.new is None],
    )
    writing = Writing(db, stories.flows, last + 1, faults)
    writing.change(stories.older, partial(_last_pages, db, stories))
    writing.add(stories.new)
    writing.end(stories.again)
    for name, more in writing.counts.items():
        db.execute(statements.COUNT, {"name": name, "more": more})
    for statement in _OVER.split(";"):
        db.execute(statement)


def _last_pages(db: sqlite3.Connection, stories: Stories) -> dict[str, LastPage]:
    """Of runs that are told of and that the history has."""
    last_pages: dict[str, LastPage] = {}
    for story in stories:
        row = None if story.new else db.execute(statements.ONE_RUN, (story.run_id,)).fetchone()
        if row is not None:
            no, pages, last, *_ = row
            last_pages[story.run_id] = no, pages, last
    return last_pages
