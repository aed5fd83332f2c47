"""The tables. The history of one journal is one SQLite file in WAL mode.

Increase FORMAT with every change of the tables, and with every change that an older release would
read wrongly: an older release refuses a newer journal. Formats from OLDEST on can be read. When a
process opens its journal, it migrates the journal to FORMAT (see migrations.py).

The last column of a row is the checksum of the other columns (see row_sums.py), with two
exceptions: the checksum of a flow is its version, and checksums of pages are chained (see
page_chain.py).
"""

from __future__ import annotations

FORMAT = 7
HANDLED_SINCE = 7  # from this format on, there are the tables `blocks`, `handled` and `minutes`
CHECKSUMS_SINCE = 5  # from this format on, every row has a checksum, and there is a log
OLDEST = 2
APPLICATION_ID = 0x46524D4A  # "FRMJ": distinguishes journals from other SQLite databases

PAGE_BITS = 24  # the low bits of a page's place are the number of the page in its run, from 1

RUNS = """
-- One row for each run, for lists and starts. The row can be rebuilt from the facts.
CREATE TABLE runs (
    no          INTEGER PRIMARY KEY,         -- in order of acceptance
    id          TEXT NOT NULL UNIQUE,
    flow        TEXT,                        -- NULL: a dead letter
    state       TEXT NOT NULL,
    reason      TEXT NOT NULL,
    source      TEXT NOT NULL,
    node        TEXT,                        -- NULL: this node
    accepted_ms INTEGER NOT NULL,            -- wall clock
    settled_ms  INTEGER,                     -- wall clock, or NULL: not ended
    ended_ahead_ms INTEGER NOT NULL,         -- retention clock minus wall clock at the end
    parent      TEXT,                        -- the run that started this run by a RUN step
    fault       INTEGER,                     -- of a run in trouble: its row in `faults`
    pages       INTEGER NOT NULL,            -- the number of pages
    chain       INTEGER NOT NULL,            -- the checksum of the last page
    duplicates  INTEGER NOT NULL,            -- duplicates of its trigger
    sum         INTEGER NOT NULL
);
"""

PAGES_TABLE = """
-- The facts, in order. A page has the facts that one transaction wrote about one run, as JSON:
-- [[at_ms, fact], …]. `sum` also covers the sum of the previous page (see page_chain.py). Page n of
-- a run has the place run << 24 | n, so pages of new runs are added at the end of the table.
CREATE TABLE pages (
    place INTEGER PRIMARY KEY,
    body  BLOB NOT NULL,
    sum   INTEGER NOT NULL,
    run   INTEGER AS (place >> 24),
    n     INTEGER AS (place & 0xFFFFFF)
);

-- Every flow definition with which a run began.
CREATE TABLE flows (version TEXT PRIMARY KEY, body BLOB NOT NULL) WITHOUT ROWID;
"""

LIST_TABLES = """
-- One row for each kind of failure. Runs in trouble refer to a row, so that a component, a cause or
-- a text is searched only in these few rows. `shape` is the reason without its numbers.
CREATE TABLE faults (
    no        INTEGER PRIMARY KEY,
    state     TEXT NOT NULL,
    flow      TEXT,
    component TEXT,                          -- the component called last, if a step failed
    cause     TEXT,
    shape     TEXT NOT NULL,
    sum       INTEGER NOT NULL
);

-- If a block of 16,384 runs contains ended runs of a flow in a state, there is a row for this
-- block, flow and state. `zones` has one bit for every 256 runs of the block. The bit is set if
-- there is such a run among them. Other columns have the lowest and highest `accepted_ms` and `id`
-- of such runs.
CREATE TABLE spans (
    block    INTEGER NOT NULL,
    flow     TEXT NOT NULL,                  -- '': of dead letters
    state    TEXT NOT NULL,
    zones    INTEGER NOT NULL,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    first_id TEXT NOT NULL,
    last_id  TEXT NOT NULL,
    sum      INTEGER NOT NULL,
    PRIMARY KEY (block, flow, state)
) WITHOUT ROWID;
"""

BLOCKS_AND_HANDLED = """
-- For each block of 16,384 runs, the lowest and the highest `accepted_ms` of its runs. By these,
-- the runs of a range of times are found, even if the clock was set.
CREATE TABLE blocks (
    block    INTEGER PRIMARY KEY,
    first_ms INTEGER NOT NULL,
    last_ms  INTEGER NOT NULL,
    sum      INTEGER NOT NULL
);

-- Runs that an operator has repeated (`by_run` is the new run) or discarded (`by_run` is '').
CREATE TABLE handled (
    run    TEXT NOT NULL,
    by_run TEXT NOT NULL,
    at_ms  INTEGER NOT NULL,                 -- wall clock
    actor  TEXT,
    sum    INTEGER NOT NULL,
    PRIMARY KEY (run, by_run)
) WITHOUT ROWID;
"""

_COUNT_COLUMNS = """(
    at_ms     INTEGER NOT NULL,
    flow      TEXT NOT NULL,
    state     TEXT NOT NULL,
    runs      INTEGER NOT NULL,
    durations TEXT NOT NULL,
    sum       INTEGER NOT NULL,
    PRIMARY KEY (at_ms, flow, state)
) WITHOUT ROWID;
"""

MINUTES = f"""
-- For each minute and each hour: how many runs of each flow were accepted (`state` is 'accepted'),
-- how many ended in each state, and how long they took. `flow` is '' for dead letters. `durations`
-- is a JSON array: item n counts the runs that took less than 2**n ms, and at least 2**(n-1) ms.
-- The row `minute` of `meta` has the counts of the last minute, which are not in these tables yet.
CREATE TABLE minutes {_COUNT_COLUMNS}CREATE TABLE hours {_COUNT_COLUMNS}"""

BLOBS = """
-- The large values of each run's facts. Each value is a file in the folder of blobs. The fact also
-- contains the name, the size in bytes and the CRC-32 of the file.
CREATE TABLE blobs (
    run  INTEGER NOT NULL,
    name TEXT NOT NULL,
    size INTEGER NOT NULL,
    crc  INTEGER NOT NULL,
    sum  INTEGER NOT NULL,
    PRIMARY KEY (run, name)
) WITHOUT ROWID;
"""

KEYS = """
-- Trigger ids: a trigger that arrives again is answered with the run that it started.
CREATE TABLE keys (
    key      TEXT PRIMARY KEY,
    run      INTEGER NOT NULL,
    digest   TEXT NOT NULL,
    until_ms INTEGER NOT NULL,
    sum      INTEGER NOT NULL
) WITHOUT ROWID;
"""

META = """
-- `accepted`, `settled` and `dropped` count runs since the file was made, so that a missing run is
-- noticed. `clean` is 1 if the last process ended in order. `projected` is the position up to which
-- the history contains the log. `ended_until` is the position up to which the history contains the
-- ended runs of the log. `trouble_bytes` is the size of runs in trouble, `blob_bytes` is the size
-- of all blobs, and `schema` is the checksum of the table definitions. `minute` is not a number,
-- but JSON: see `minutes`.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL,
    sum   INTEGER NOT NULL
) WITHOUT ROWID;
"""

# The tables about runs. A reader also creates them as temporary tables: see read/log_overlay.py.
RUN_TABLES = RUNS + PAGES_TABLE + LIST_TABLES + BLOCKS_AND_HANDLED + BLOBS

# Indexes and views. They can be rebuilt from the tables.
INDEXES = """
CREATE INDEX open_runs ON runs (no) WHERE settled_ms IS NULL;
CREATE INDEX runs_by_fault ON runs (fault) WHERE fault IS NOT NULL;
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_elsewhere ON runs (node) WHERE node IS NOT NULL;
CREATE INDEX keys_by_end ON keys (until_ms);
CREATE INDEX keys_by_run ON keys (run);

-- For people with a sqlite3 prompt: each fact as a row.
CREATE VIEW story AS
    SELECT runs.id AS run,
           strftime('%Y-%m-%dT%H:%M:%fZ', json_extract(value, '$[0]') / 1000.0, 'unixepoch') AS at,
           json_extract(value, '$[1]') AS fact
    FROM runs JOIN pages ON pages.place BETWEEN runs.no << 24 AND runs.no << 24 | 0xFFFFFF,
         json_each(CAST(pages.body AS TEXT))
    ORDER BY runs.no, n, key;
"""

HANDLED_INDEX = "CREATE INDEX handled_by_run ON handled (by_run) WHERE by_run != '';"

# Rows of `meta` that a repair adds if parts of the log are lost.
LOSSES = ("lost_places", "lost_runs")
COUNTS = (  # rows of `meta`, initially 0
    "accepted", "settled", "dropped", "projected", "ended_until", "trouble_bytes", "blob_bytes",
)  # fmt: skip

CREATE = RUN_TABLES + MINUTES + KEYS + META + INDEXES + HANDLED_INDEX
