"""Converts a journal of this release into a journal in the format of an earlier release."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

from fractal_rm.adapters.sqlite.format.migrations import schema_checksum
from fractal_rm.adapters.sqlite.format.row_sums import register_row_sum
from fractal_rm.adapters.sqlite.format.schema import APPLICATION_ID
from fractal_rm.adapters.sqlite.format.statements import SET_META

_AHEAD = "ended_ahead_ms INTEGER NOT NULL DEFAULT 0,"
_TABLES = """
CREATE TABLE runs (
    no INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, flow TEXT, state TEXT NOT NULL,
    reason TEXT NOT NULL, source TEXT NOT NULL, node TEXT, accepted_ms INTEGER NOT NULL,
    settled_ms INTEGER, ended_ahead_ms INTEGER NOT NULL DEFAULT 0, pages INTEGER NOT NULL,
    sum INTEGER NOT NULL, duplicates INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX open_runs ON runs (no) WHERE settled_ms IS NULL;
CREATE TABLE pages (
    place INTEGER PRIMARY KEY, body BLOB NOT NULL, sum INTEGER NOT NULL,
    run INTEGER AS (place >> 24), n INTEGER AS (place & 0xFFFFFF)
);
CREATE TABLE keys (
    key TEXT PRIMARY KEY, run INTEGER NOT NULL, digest TEXT NOT NULL, until_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX keys_by_end ON keys (until_ms);
CREATE INDEX keys_by_run ON keys (run);
CREATE TABLE flows (version TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
CREATE VIEW story AS
    SELECT runs.id AS run, json_extract(value, '$[0]') AS at, json_extract(value, '$[1]') AS fact
    FROM runs JOIN pages ON pages.place BETWEEN runs.no << 24 AND runs.no << 24 | 0xFFFFFF,
         json_each(CAST(pages.body AS TEXT))
    ORDER BY runs.no, n, key;
"""
_COPY = """
INSERT INTO runs
    SELECT no, id, flow, state, reason, source, node, accepted_ms, settled_ms, ended_ahead_ms,
           pages, chain, duplicates FROM new.runs;
INSERT INTO pages (place, body, sum) SELECT place, body, sum FROM new.pages;
INSERT INTO keys SELECT key, run, digest, until_ms FROM new.keys;
INSERT INTO flows SELECT version, body FROM new.flows;
INSERT INTO meta SELECT name, value FROM new.meta WHERE name IN ('accepted', 'settled', 'clean');
"""


def convert_to_format(path: Path, number: int) -> None:
    """Convert a closed journal to the earlier format ``number``.

    Formats before 5 have no log, so the folder of the log is deleted.
    """
    if number >= 5:
        _remove_newer_tables(path, number)
        return
    current_path = path.with_suffix(".new")
    path.rename(current_path)
    shutil.rmtree(path.with_suffix(".log"))
    tables = _TABLES if number >= 4 else _TABLES.replace(_AHEAD, "")
    copy = _COPY if number >= 4 else _COPY.replace(" ended_ahead_ms,", "")
    with closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("ATTACH ? AS new", (str(current_path),))
        db.executescript(
            f"BEGIN;{tables}{copy}PRAGMA application_id = {APPLICATION_ID};"
            f"PRAGMA user_version = {number};COMMIT;"
        )
    current_path.unlink()


def _remove_newer_tables(path: Path, number: int) -> None:
    """Convert a journal to format 6 or 5: remove the tables that later formats have."""
    tables = ["blocks", "handled", "minutes", "hours"] + (["blobs"] if number < 6 else [])
    counts = ["minute"] + (["blob_bytes"] if number < 6 else [])
    with closing(sqlite3.connect(path)) as db:
        register_row_sum(db)
        for table in tables:
            db.execute(f"DROP TABLE {table}")
        db.executemany("DELETE FROM meta WHERE name = ?", [(name,) for name in counts])
        db.execute(f"PRAGMA user_version = {number}")
        db.execute(SET_META, {"name": "schema", "value": schema_checksum(db)})
        db.commit()
