"""What is on the disk. One journal is one SQLite file in WAL mode with these tables.

FORMAT is raised with every change to them, and with whatever an older program would take for
something else; an older program refuses a newer journal (G15). Formats from OLDEST on are read, and
raised when a process opens its journal: see migrations.py.

Every row ends with its checksum, which covers the whole row (see sums.py); a flow's is its version,
a page's is chained (see chain.py).
"""

from __future__ import annotations

FORMAT = 6
SUMMED_SINCE = 5  # every row has a checksum, and there is a log
OLDEST = 2
APPLICATION_ID = 0x46524D4A  # "FRMJ": tells our files from other SQLite databases

PAGE_BITS = 24  # of a page's place are its number in the run, counted from 1

RUNS = """
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
    ended_ahead_ms INTEGER NOT NULL,         -- so far history's clock was ahead of that then
    parent      TEXT,                        -- the run that it is a part of
    fault       INTEGER,                     -- of a run in trouble: what went wrong
    pages       INTEGER NOT NULL,            -- how many there are, and the checksum of the last:
    chain       INTEGER NOT NULL,            -- one that is missing at the end is seen
    duplicates  INTEGER NOT NULL,            -- how often its trigger came again
    sum         INTEGER NOT NULL
);
"""

PAGES_TABLE = """
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

BESIDE = """
-- What goes wrong, each kind once: runs in trouble point here, and who looks for a component, a
-- cause or a text looks through these few. `shape` is the reason without its numbers.
CREATE TABLE faults (
    no        INTEGER PRIMARY KEY,
    state     TEXT NOT NULL,
    flow      TEXT,
    component TEXT,                          -- that was called last, where a step failed
    cause     TEXT,
    shape     TEXT NOT NULL,
    sum       INTEGER NOT NULL
);

-- Where the ended runs of a flow in a state are: of each block of 16,384 runs one bit for every
-- 256 of them that have any, the times of their acceptance, and their ids, the first and the last.
CREATE TABLE spans (
    block    INTEGER NOT NULL,
    flow     TEXT NOT NULL,                  -- '': of a message that never became a run
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

BLOBS = """
-- Large values of facts: whose they are. Each is a file beside the journal, and the fact that it
-- belongs to has its name, size in bytes and CRC-32, too.
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
-- Trigger ids, so that a trigger that comes again is the same run (G3).
CREATE TABLE keys (
    key      TEXT PRIMARY KEY,
    run      INTEGER NOT NULL,
    digest   TEXT NOT NULL,
    until_ms INTEGER NOT NULL,
    sum      INTEGER NOT NULL
) WITHOUT ROWID;
"""

META = """
-- `accepted`, `settled` and `dropped` count runs from the first day: so one that has vanished is
-- missed. `clean` is 1 when the last process ended in order, `projected` how far the log is in
-- here, and `ended_until` how far what ended in it, `trouble_bytes` what runs in trouble take,
-- `blob_bytes` what blobs take, `schema` the checksum of these definitions.
CREATE TABLE meta (
    name  TEXT PRIMARY KEY,
    value INTEGER NOT NULL,
    sum   INTEGER NOT NULL
) WITHOUT ROWID;
"""

# What is told of runs. A reader makes these in a place of its own, too: see recent.py.
TOLD = RUNS + PAGES_TABLE + BESIDE + BLOBS

# The parts that can be made again from the tables.
INDEXES = """
CREATE INDEX open_runs ON runs (no) WHERE settled_ms IS NULL;
CREATE INDEX runs_by_fault ON runs (fault) WHERE fault IS NOT NULL;
CREATE INDEX runs_by_parent ON runs (parent) WHERE parent IS NOT NULL;
CREATE INDEX runs_elsewhere ON runs (node) WHERE node IS NOT NULL;
CREATE INDEX keys_by_end ON keys (until_ms);
CREATE INDEX keys_by_run ON keys (run);

-- For people with a sqlite3 prompt: every fact as a line.
CREATE VIEW story AS
    SELECT runs.id AS run,
           strftime('%Y-%m-%dT%H:%M:%fZ', json_extract(value, '$[0]') / 1000.0, 'unixepoch') AS at,
           json_extract(value, '$[1]') AS fact
    FROM runs JOIN pages ON pages.place BETWEEN runs.no << 24 AND runs.no << 24 | 0xFFFFFF,
         json_each(CAST(pages.body AS TEXT))
    ORDER BY runs.no, n, key;
"""

LOSSES = ("lost_places", "lost_runs")  # of the log, by repairs; not there where nothing was lost
COUNTS = (  # from 0
    "accepted", "settled", "dropped", "projected", "ended_until", "trouble_bytes", "blob_bytes",
)  # fmt: skip

CREATE = TOLD + KEYS + META + INDEXES
