"""The SQL statements for the tables in schema.py."""

# ruff: noqa: S608 - statements are built from constants of this file only
from __future__ import annotations

# --- writing; statements that end in VALUES take many rows (see bulk.py) -----------------------

# The columns of `runs` that its checksum covers, in order.
RUN_COLUMNS = (
    "no, id, flow, state, reason, source, node, accepted_ms, settled_ms, ended_ahead_ms, parent,"
    " fault, pages, chain, duplicates"
)
INSERT_RUNS = "INSERT INTO runs VALUES "
INSERT_PAGES = "INSERT INTO pages (place, body, sum) VALUES "
INSERT_KEYS = "INSERT OR REPLACE INTO keys VALUES "
INSERT_FAULTS = "INSERT INTO faults VALUES "
INSERT_BLOBS = "INSERT OR REPLACE INTO blobs VALUES "
INSERT_FLOW = "INSERT OR IGNORE INTO flows (version, body) VALUES (?, ?)"
UPDATE_RUNS = (  # the text before the rows, and the text after them
    (
        "UPDATE runs SET state = v.column2, reason = v.column3, node = v.column4,"
        " settled_ms = v.column5, ended_ahead_ms = v.column6, fault = v.column7,"
        " pages = v.column8, chain = v.column9, sum = v.column10 FROM (VALUES "
    ),
    ") AS v WHERE no = v.column1",
)
COUNT_DUPLICATES = (
    "UPDATE runs SET duplicates = duplicates + ?1, sum = row_sum(no, id, flow, state, reason,"
    " source, node, accepted_ms, settled_ms, ended_ahead_ms, parent, fault, pages, chain,"
    " duplicates + ?1) WHERE id = ?2"
)
UPSERT_SPANS = (  # the text before the rows, and the text after them
    "INSERT INTO spans VALUES ",
    (
        " ON CONFLICT (block, flow, state) DO UPDATE SET zones = zones | excluded.zones,"
        " first_ms = min(first_ms, excluded.first_ms), last_ms = max(last_ms, excluded.last_ms),"
        " first_id = min(first_id, excluded.first_id), last_id = max(last_id, excluded.last_id),"
        " sum = row_sum(block, flow, state, zones | excluded.zones,"
        " min(first_ms, excluded.first_ms), max(last_ms, excluded.last_ms),"
        " min(first_id, excluded.first_id), max(last_id, excluded.last_id))"
    ),
)
UPSERT_BLOCKS = (
    "INSERT INTO blocks VALUES ",
    (
        " ON CONFLICT (block) DO UPDATE SET first_ms = min(first_ms, excluded.first_ms),"
        " last_ms = max(last_ms, excluded.last_ms), sum = row_sum(block,"
        " min(first_ms, excluded.first_ms), max(last_ms, excluded.last_ms))"
    ),
)
FILL_BLOCKS = (
    "INSERT INTO blocks SELECT no >> 14, min(accepted_ms), max(accepted_ms),"
    " row_sum(no >> 14, min(accepted_ms), max(accepted_ms)) FROM runs GROUP BY no >> 14"
)
REPLACE_HANDLED = "INSERT OR REPLACE INTO handled VALUES "
SET_META = "INSERT OR REPLACE INTO meta VALUES (:name, :value, row_sum(:name, :value))"
ADD_TO_META = (
    "UPDATE meta SET value = value + :amount, sum = row_sum(name, value + :amount)"
    " WHERE name = :name"
)
READ_META = "SELECT value FROM meta WHERE name = ?"
READ_PROJECTED = "SELECT name, value FROM meta WHERE name IN ('projected', 'ended_until')"
FIRST_VERSION = (  # the flow version with which a run began
    "SELECT json_extract(CAST(body AS TEXT), '$[0][1].version') FROM pages"
    " WHERE place = ? << 24 | 1 AND json_valid(CAST(body AS TEXT))"
)
FLOW_BODY = "SELECT body FROM main.flows WHERE version = ?"
READ_FAULTS = "SELECT no, state, flow, component, cause, shape FROM faults"
SET_PARENT_AND_FAULT = (
    "UPDATE runs SET parent = :parent, fault = :fault, sum = row_sum(no, id, flow, state, reason,"
    " source, node, accepted_ms, settled_ms, ended_ahead_ms, :parent, :fault, pages, chain,"
    " duplicates) WHERE no = :no"
)
RUN_BY_ID = f"SELECT {RUN_COLUMNS}, sum FROM runs WHERE id = ?"
SET_PAGES = "UPDATE runs SET pages = ?, chain = ?, sum = ? WHERE no = ?"
# The columns that UPDATE_RUNS keeps. All runs are in one row of the result, as SQLite releases the
# GIL for each row.
KEPT_COLUMNS = (
    "SELECT json_group_array(json_array(no, id, flow, source, accepted_ms, parent, duplicates))"
    " FROM runs WHERE no IN (SELECT value FROM json_each(?))"
)
PAGE_ROW_BYTES = 100  # about the size of a page's row without `body`
# The size of the facts of some runs: those that ended badly are kept longer.
TROUBLE_BYTES = (
    f"SELECT coalesce(sum(length(body) + {PAGE_ROW_BYTES}), 0) FROM json_each(?) CROSS JOIN pages"
    " ON pages.place BETWEEN value << 24 AND value << 24 | 0xFFFFFF"
)
BLOB_BYTES = (  # the size of the blobs of some runs
    "SELECT coalesce(sum(size), 0) FROM json_each(?) CROSS JOIN blobs ON blobs.run = value"
)
FIND_KEYS = (
    "SELECT key, until_ms, runs.id, keys.digest, runs.state FROM keys"
    " JOIN runs ON runs.no = keys.run WHERE key IN (VALUES "
)
FIND_RUNS = "SELECT id, state FROM runs WHERE id IN (VALUES "

# --- reading ----------------------------------------------------------------------------------

PAGES_OF_RUN = "pages.place BETWEEN runs.no << 24 AND runs.no << 24 | 0xFFFFFF"
READ_PAGES_OF_RUN = (
    f"SELECT n, body, pages.sum FROM runs JOIN pages ON {PAGES_OF_RUN} WHERE runs.no = ? ORDER BY n"
)
ALL_PAGES = (
    "SELECT runs.id, runs.pages, runs.chain, flow, state, reason, node, n, body, pages.sum"
    f" FROM runs LEFT JOIN pages ON {PAGES_OF_RUN} WHERE runs.pages > 0 ORDER BY runs.no, place"
)
ALL_RUNS = f"SELECT {RUN_COLUMNS}, sum FROM runs"
RUNS_BETWEEN = f"{ALL_RUNS} WHERE no BETWEEN ? AND ? ORDER BY no DESC"
SPANS_WHERE = "SELECT block, zones, last_id FROM spans WHERE "
# The highest result of these statements is an upper bound of the run numbers.
HIGHEST_RUN_NUMBERS = (
    "SELECT max(no) FROM runs",
    "SELECT max(place) >> 24 FROM pages",
    "SELECT value FROM meta WHERE name = 'accepted'",
)
BLOB_NAMES = "SELECT name FROM blobs"
READ_KEYS_AFTER = "SELECT * FROM keys WHERE key > ? ORDER BY key LIMIT ?"
COUNT_REPEATED = "SELECT count(*) FROM handled INDEXED BY handled_by_run WHERE by_run != ''"
COUNT_OPEN = "SELECT count(*) FROM runs INDEXED BY open_runs WHERE settled_ms IS NULL"
# For each index: its name, and the position of the indexed column in the table's rows.
INDEXES_OF_RUNS = (
    ("sqlite_autoindex_runs_1", 1),
    ("runs_elsewhere", 6),
    ("runs_by_parent", 10),
    ("runs_by_fault", 11),
)
INDEXES_OF_KEYS = (("keys_by_run", 1), ("keys_by_end", 3))
_COLUMNS = {
    "sqlite_autoindex_runs_1": "id",
    "runs_elsewhere": "node",
    "runs_by_parent": "parent",
    "runs_by_fault": "fault",
    "keys_by_run": "run",
    "keys_by_end": "until_ms",
}


def read_index(table: str, index: str) -> str:
    """Return a statement that reads one row from an index."""
    column = _COLUMNS[index]
    return f"SELECT {column} FROM {table} INDEXED BY {index} WHERE {column} > '' LIMIT 1"


def select_missing_in(index: str) -> tuple[str, str]:
    """Return a bulk statement that selects the runs or trigger ids that an index does not find.

    Returns the text before the rows, and the text after them. Each row of the statement has the
    value of the indexed column, and the run number or trigger id.
    """
    table, by = ("keys", "key") if index.startswith("keys") else ("runs", "no")
    match = f"{_COLUMNS[index]} = v.column1 AND {by} = v.column2"
    tail = f") AS v WHERE NOT EXISTS (SELECT 1 FROM {table} INDEXED BY {index} WHERE {match})"
    return "SELECT v.column2 FROM (VALUES ", tail


PAGES_BETWEEN = (
    "SELECT run, n, body, sum FROM pages WHERE place BETWEEN ? << 24 AND ? << 24 | 0xFFFFFF"
)

# --- used at a start --------------------------------------------------------------------------

# The newest run id that this node created, if it is among the newest 10,000 ids.
NEWEST_OWN_RUN_ID = (
    "SELECT id FROM (SELECT id, source FROM runs ORDER BY id DESC LIMIT 10000)"
    " WHERE source != 'peer' LIMIT 1"
)

# The time at which the newest ended run ended, in milliseconds of the retention clock.
NEWEST_END_MS = (
    "SELECT settled_ms + ended_ahead_ms FROM runs WHERE settled_ms IS NOT NULL"
    " ORDER BY no DESC LIMIT 1"
)

OPEN_RUNS = "SELECT no, id, pages, chain FROM runs WHERE settled_ms IS NULL ORDER BY no"
ONE_RUN = "SELECT no, pages, chain, accepted_ms, flow FROM runs WHERE id = ?"
HAS_OPEN_BLOB = (
    "SELECT 1 FROM runs JOIN blobs ON blobs.run = runs.no WHERE settled_ms IS NULL LIMIT 1"
)
EXPECTED_OPEN = (
    "SELECT sum(CASE name WHEN 'accepted' THEN value ELSE -value END) FROM meta"
    " WHERE name IN ('accepted', 'settled')"
)
OPEN_PAGES = (  # pages of open runs, with columns of the run; a run without pages has one row
    "SELECT no, id, pages, chain, flow, accepted_ms, n, body, pages.sum FROM runs"
    f" LEFT JOIN pages ON {PAGES_OF_RUN} WHERE settled_ms IS NULL ORDER BY no, place"
)

# --- retention ---------------------------------------------------------------------------------

# For each run: its number, when it was accepted, when it ended, and whether it is in trouble. Times
# are milliseconds of the retention clock. Both times of an open run are NULL.
RETENTION_SLICE = (
    "SELECT no, min(accepted_ms, settled_ms) + ended_ahead_ms, settled_ms + ended_ahead_ms,"
    " fault IS NOT NULL FROM runs WHERE no > ? ORDER BY no LIMIT ?"
)
DROP_PAGES = (
    "DELETE FROM pages WHERE place IN (SELECT pages.place FROM json_each(?) CROSS JOIN runs"
    f" ON runs.no = value JOIN pages ON {PAGES_OF_RUN})"
)
DROP_PAGES_OF_RUN = "DELETE FROM pages WHERE place BETWEEN ?1 << 24 AND ?1 << 24 | 0xFFFFFF"
BLOB_SIZES = (
    "SELECT run, sum(size) FROM json_each(?) CROSS JOIN blobs ON blobs.run = value GROUP BY run"
)
BLOBS_OF = "SELECT name, size FROM json_each(?) CROSS JOIN blobs ON blobs.run = value"
DROP_BLOBS = "DELETE FROM blobs WHERE run IN (SELECT value FROM json_each(?))"
DROP_RUNS = (  # does not delete the row of a run whose trigger id is still stored
    "DELETE FROM runs WHERE no IN (SELECT value FROM json_each(?))"
    " AND NOT EXISTS (SELECT 1 FROM keys WHERE keys.run = runs.no)"
)
SET_RUNS_WITHOUT_PAGES = (  # for the remaining rows of runs whose pages were deleted
    "UPDATE runs SET pages = 0, chain = 0, sum = row_sum(no, id, flow, state, reason, source, node,"
    " accepted_ms, settled_ms, ended_ahead_ms, parent, fault, 0, 0, duplicates)"
    " WHERE no IN (SELECT value FROM json_each(?)) AND pages > 0"
)
DROP_KEYS = "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE until_ms <= ? LIMIT ?)"
DROP_SPANS = "DELETE FROM spans WHERE block < (SELECT min(no) FROM runs) >> 14"
COUNT_KEY = "at_ms, flow, state"  # the primary key of `minutes` and of `hours`
DROP_BLOCKS = "DELETE FROM blocks WHERE block < (SELECT min(no) FROM runs) >> 14"
DROP_HANDLED = (
    "DELETE FROM handled WHERE (run, by_run) IN"
    " (SELECT run, by_run FROM handled WHERE at_ms < ? LIMIT ?)"
)
DROP_FAULTS = (
    "DELETE FROM faults WHERE NOT EXISTS (SELECT 1 FROM runs WHERE runs.fault = faults.no)"
)


def drop_counts(table: str) -> str:
    """Return a statement that deletes some old rows of ``minutes`` or ``hours``."""
    old_keys = f"SELECT {COUNT_KEY} FROM {table} WHERE at_ms < ? LIMIT ?"
    return f"DELETE FROM {table} WHERE ({COUNT_KEY}) IN ({old_keys})"


def counts_after(table: str) -> str:
    """Return a statement that selects rows of ``minutes`` or ``hours`` after a key."""
    return f"SELECT * FROM {table} WHERE ({COUNT_KEY}) > (?, ?, ?) ORDER BY {COUNT_KEY} LIMIT ?"


def select_count(table: str) -> str:
    """Return a statement that selects the counts of a key in ``minutes`` or ``hours``."""
    return f"SELECT runs, durations FROM {table} WHERE ({COUNT_KEY}) = (?, ?, ?)"


# --- blobs -------------------------------------------------------------------------------------

BLOB_BYTES_COUNTED_AND_FOUND = (
    "SELECT (SELECT value FROM main.meta WHERE name = 'blob_bytes'),"
    " (SELECT coalesce(sum(size), 0) FROM main.blobs)"
)
