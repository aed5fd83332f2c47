"""Reads and copies the tables of a history. No other module of the bench depends on the schema."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from fractal_rm.adapters.sqlite.format.schema import PAGE_BITS

# When each of the newest runs was settled, by the payload of its trigger.
OUTCOMES = (
    "SELECT json_extract(CAST(body AS TEXT), '$[0][1].payload'), settled_ms FROM"
    " (SELECT no, settled_ms FROM runs ORDER BY no DESC LIMIT ?)"
    f" JOIN pages ON place = no << {PAGE_BITS} | 1"
)
# For each table that `multiply` copies: the rows, and the new values of columns that change.
COPIED = (
    ("runs", "no <= :made", {"no": "no + :by", "id": "printf('%026d', no + :by)"}),
    ("pages", f"place < :made + 1 << {PAGE_BITS}", {"place": f"place + (:by << {PAGE_BITS})"}),
)


def rows(journal: Path, statement: str, *values: object) -> list[tuple]:
    """Rows of the history, read-only."""
    with closing(sqlite3.connect(f"file:{journal}?mode=ro", uri=True)) as db:
        return db.execute(statement, values).fetchall()


def used_bytes(journal: Path) -> int:
    """The size of its file without free pages."""
    used, free, size = (
        rows(journal, f"PRAGMA {name}")[0][0]
        for name in ("page_count", "freelist_count", "page_size")
    )
    return (used - free) * size


def multiply(journal: Path, many: int) -> None:
    """Copy the runs of a history under new numbers and ids, up to ``many`` runs.

    No node may have the history open.
    """
    with closing(sqlite3.connect(journal, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = OFF")
        made = db.execute("SELECT max(no) FROM runs").fetchone()[0]
        copies = [_copy(db, *each) for each in COPIED]
        for first in range(made, many, made):
            db.execute("BEGIN")
            for statement in copies:
                db.execute(statement, {"by": first, "made": made})
            db.execute("COMMIT")
        added = db.execute("SELECT max(no) FROM runs").fetchone()[0] - made
        for name in ("accepted", "settled"):
            db.execute("UPDATE meta SET value = value + ? WHERE name = ?", (added, name))


def _copy(db: sqlite3.Connection, table: str, which: str, changed: dict[str, str]) -> str:
    """The statement that copies rows of a table with all its columns."""
    columns = [name for _, name, *_ in db.execute(f"PRAGMA table_info({table})")]
    values = ", ".join(changed.get(name, name) for name in columns)
    return f"INSERT INTO {table} ({', '.join(columns)}) SELECT {values} FROM {table} WHERE {which}"
