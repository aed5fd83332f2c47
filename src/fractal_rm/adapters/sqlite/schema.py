"""What is on the disk. One journal is one SQLite file in WAL mode with these tables.

FORMAT is raised with every change to them, and with whatever an older program would take for
something else; an older program refuses a newer journal (G15). Formats from OLDEST on are read, and
raised when a process opens its journal.

1 was never released: it had another checksum. 2 has the same tables as 3, which has results that
are bytes, and base64 in flows. 4 has `ended_ahead_ms`. 5 has
`projected`: the log of format 1 begins there.
"""

# ruff: noqa: S608 - statements are put together from the words of this file alone
from __future__ import annotations

FORMAT = 5
OLDEST = 2
APPLICATION_ID = 0x46524D4A  # "FRMJ": tells our files from other SQLite databases

PAGE_BITS = 24  # of a page's place are its number in the run, counted from 1

# What is told of runs. A reader makes these three in a place of its own, too: see recent.py.
TOLD = """
-- One row a run: what lists and restarts ask for. It can be made again from the facts.
CREATE TABLE runs (
    no          INTEGER PRIMARY KEY,         -- in order of acceptance
    id          TEXT NOT NULL UNIQUE,
    flow        TEXT,                        -- NULL: a message that never became a run
    state       TEXT NOT NULL,
    reason      TEXT NOT NULL,
    source      TEXT NOT NULL,
    node        TEXT,                        -- NULL: here
    accepted_ms INTEGER NOT NULL,
    settled_ms  INTEGER,                     -- NULL: it has no end yet. Both are wall time
    ended_ahead_ms INTEGER NOT NULL DEFAULT 0,  -- so far history's clock was ahead of that then
    pages       INTEGER NOT NULL,            -- how many there are, and the checksum of the last:
    sum         INTEGER NOT NULL,            -- one that is missing at the end is seen
    duplicates  INTEGER NOT NULL DEFAULT 0   -- how often its trigger came again
);

-- What happened, in order. A page has the facts of one run that one transaction wrote, as JSON:
-- [[at_ms, fact], …]. `sum` is chained: it covers the one before it (see chain.py). The n-th page
-- of a run has its place at run << 24 | n: a plain table in this order grows at its end.
CREATE TABLE pages (
    place INTEGER PRIMARY KEY,
    body  BLOB NOT NULL,
    sum   INTEGER NOT NULL,
    run   INTEGER AS (place >> 24),
    n     INTEGER AS (place & 0xFFFFFF)
);

-- Every flow definition that a run began with (G13).
CREATE TABLE flows (version TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""

CREATE = f"""{TOLD}
CREATE INDEX open_runs ON runs (no) WHERE settled_ms IS NULL;


-- Trigger ids, so that a trigger that comes again is the same run (G3).
CREATE TABLE keys (
    key      TEXT PRIMARY KEY,
    run      INTEGER NOT NULL,
    digest   TEXT NOT NULL,
    until_ms INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX keys_by_end ON keys (until_ms);
CREATE INDEX keys_by_run ON keys (run);

-- `accepted` and `settled` count runs from the first day: their difference is the number of open
-- runs, so that one that has vanished is missed. `clean` is 1 when the last process ended in order.
CREATE TABLE meta (name TEXT PRIMARY KEY, value INTEGER NOT NULL) WITHOUT ROWID;
INSERT INTO meta VALUES ('accepted', 0), ('settled', 0), ('clean', 1), ('projected', 0);

-- For people with a sqlite3 prompt: every fact as a line.
CREATE VIEW story AS
    SELECT runs.id AS run,
           strftime('%Y-%m-%dT%H:%M:%fZ', json_extract(value, '$[0]') / 1000.0, 'unixepoch') AS at,
           json_extract(value, '$[1]') AS fact
    FROM runs JOIN pages ON pages.place BETWEEN runs.no << 24 AND runs.no << 24 | 0xFFFFFF,
         json_each(CAST(pages.body AS TEXT))
    ORDER BY runs.no, n, key;
"""

# From before format 4: the wall clock was then the only one, so 0 is right.
TO_4 = "ALTER TABLE runs ADD COLUMN ended_ahead_ms INTEGER NOT NULL DEFAULT 0;"
TO_5 = "INSERT INTO meta VALUES ('projected', 0);"
STEPS = {4: TO_4, 5: TO_5}  # to each format, from the one before

# --- the writer's statements; those that end in VALUES take many at once -----------------------

INSERT_RUNS = (
    "INSERT INTO runs (no, id, flow, state, reason, source, node, accepted_ms, settled_ms,"
    " pages, sum, ended_ahead_ms) VALUES "
)
INSERT_PAGES = "INSERT INTO pages (place, body, sum) VALUES "
INSERT_KEYS = "INSERT OR REPLACE INTO keys (key, run, digest, until_ms) VALUES "
INSERT_FLOW = "INSERT OR IGNORE INTO flows (version, body) VALUES (?, ?)"
UPDATE_RUNS = (  # what stands before the rows, and after them
    (
        "UPDATE runs SET state = v.column2, reason = v.column3, node = v.column4,"
        " settled_ms = v.column5, pages = v.column6, sum = v.column7, ended_ahead_ms = v.column8"
        " FROM (VALUES "
    ),
    ") AS v WHERE no = v.column1",
)
COUNT_DUPLICATES = "UPDATE runs SET duplicates = duplicates + ? WHERE id = ?"
FIND_PROJECTED = "SELECT value FROM meta WHERE name = 'projected'"
PROJECTED = "UPDATE meta SET value = ? WHERE name = 'projected'"
COUNT = (
    "UPDATE meta SET value = value + iif(name = 'accepted', ?, ?)"
    " WHERE name IN ('accepted', 'settled')"
)
MARK = "UPDATE meta SET value = ? WHERE name = 'clean'"
FIND_KEYS = (
    "SELECT key, until_ms, runs.id, keys.digest, runs.state FROM keys"
    " JOIN runs ON runs.no = keys.run WHERE key IN (VALUES "
)
FIND_RUNS = "SELECT id, state FROM runs WHERE id IN (VALUES "

# --- reading ----------------------------------------------------------------------------------

OF_RUN = "pages.place BETWEEN runs.no << 24 AND runs.no << 24 | 0xFFFFFF"
PAGES = f"SELECT n, body, pages.sum FROM runs JOIN pages ON {OF_RUN} WHERE runs.no = ? ORDER BY n"
EVERY_PAGE = (
    "SELECT runs.id, runs.pages, runs.sum, flow, state, reason, node, n, body, pages.sum"
    f" FROM runs LEFT JOIN pages ON {OF_RUN} WHERE runs.pages > 0 ORDER BY runs.no, place"
)

# --- at start ---------------------------------------------------------------------------------

# The newest run with an id of our own, unless very many of other nodes have come since.
NEWEST = (
    "SELECT id FROM runs WHERE source != 'peer' AND no > (SELECT max(no) FROM runs) - 10000"
    " ORDER BY no DESC LIMIT 1"
)

# When the newest run that has an end ended, as history ages. Before it stand open runs alone.
NEWEST_END = (
    "SELECT settled_ms + ended_ahead_ms FROM runs WHERE settled_ms IS NOT NULL"
    " ORDER BY no DESC LIMIT 1"
)

OPEN_RUNS = (
    "SELECT no, id, pages, sum, flow, accepted_ms FROM runs WHERE settled_ms IS NULL ORDER BY no"
)
ONE_RUN = "SELECT no, pages, sum, accepted_ms FROM runs WHERE id = ?"
EXPECTED_OPEN = (
    "SELECT sum(CASE name WHEN 'accepted' THEN value ELSE -value END) FROM meta"
    " WHERE name IN ('accepted', 'settled')"
)
OPEN_PAGES = (
    "SELECT pages.run, n, body, pages.sum FROM runs JOIN pages"
    f" ON {OF_RUN} WHERE settled_ms IS NULL ORDER BY place"
)

# --- what is old goes, a slice at a time, so that nobody waits for it --------------------------

# When a run came and when it ended, as history ages; NULL: it has no end yet.
SLICE = (
    "SELECT no, min(accepted_ms, settled_ms) + ended_ahead_ms, settled_ms + ended_ahead_ms"
    " FROM runs WHERE no > ? ORDER BY no LIMIT ?"
)
DROP_PAGES = (
    "DELETE FROM pages WHERE place IN (SELECT pages.place FROM json_each(?) CROSS JOIN runs"
    f" ON runs.no = value JOIN pages ON {OF_RUN})"
)
DROP_RUNS = (  # a run whose trigger id still counts keeps its row, without its pages
    "DELETE FROM runs WHERE no IN (SELECT value FROM json_each(?))"
    " AND NOT EXISTS (SELECT 1 FROM keys WHERE keys.run = runs.no)"
)
STRIP_RUNS = (
    "UPDATE runs SET pages = 0, sum = 0 WHERE no IN (SELECT value FROM json_each(?)) AND pages > 0"
)
DROP_KEYS = "DELETE FROM keys WHERE key IN (SELECT key FROM keys WHERE until_ms <= ? LIMIT ?)"
