"""Reads and copies the tables of a history, which is the SQLite file with the runs of a node."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fractal_rm.adapters.sqlite.format.schema import PAGE_BITS

# Selects the newest runs: the payload of the trigger, and the time at which the run was settled.
OUTCOMES = (
    "SELECT json_extract(CAST(body AS TEXT), '$[0][1].payload'), settled_ms FROM"
    " (SELECT no, settled_ms FROM runs ORDER BY no DESC LIMIT ?)"
    f" JOIN pages ON place = no << {PAGE_BITS} | 1"
)
# For each table that `multiply` copies: its name, the condition for the copied rows, and an
# expression for each column that has a new value in the copy.
COPIED_TABLES = (
    ("runs", "no <= :original_runs", {"no": "no + :add", "id": "printf('%026d', no + :add)"}),
    (
        "pages",
        f"place < :original_runs + 1 << {PAGE_BITS}",
        {"place": f"place + (:add << {PAGE_BITS})"},
    ),
)


def rows(journal: Path, statement: str, *values: object) -> list[tuple]:
    """Open the history read-only. Returns the rows that a statement selects."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        return db.execute(statement, values).fetchall()


def used_bytes(journal: Path) -> int:
    """The size of the history's file in bytes, without free pages."""
    ((total_pages,),) = rows(journal, "PRAGMA page_count")
    ((free_pages,),) = rows(journal, "PRAGMA freelist_count")
    ((page_bytes,),) = rows(journal, "PRAGMA page_size")
    return (total_pages - free_pages) * page_bytes


def multiply(journal: Path, total_runs: int) -> None:
    """Copy the runs of a history, with new numbers and ids, until there are ``total_runs`` runs.

    The node must be stopped.
    """
    with closing(sqlite3.connect(journal, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        (original_runs,) = db.execute("SELECT max(no) FROM runs").fetchone()
        statements = [_copy_statement(db, *each) for each in COPIED_TABLES]
        for add in range(original_runs, total_runs, original_runs):
            db.execute("BEGIN")
            for statement in statements:
                db.execute(statement, {"add": add, "original_runs": original_runs})
            db.execute("COMMIT")
        (all_runs,) = db.execute("SELECT max(no) FROM runs").fetchone()
        for name in ("accepted", "settled"):
            db.execute(
                "UPDATE meta SET value = value + ? WHERE name = ?", (all_runs - original_runs, name)
            )


def _copy_statement(
    db: sqlite3.Connection, table: str, condition: str, new_values: dict[str, str]
) -> str:
    """The statement that copies the rows of ``table`` that meet ``condition``.

    ``new_values`` has an expression for each column that is changed. Other columns are copied.
    """
    columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(new_values.get(name, name) for name in columns)
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table} WHERE {condition}"
    )
