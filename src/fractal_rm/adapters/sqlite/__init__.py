"""The history on the disk: SQLite, with a checksum for every row.

format/  the tables, statements, checksums and migrations
write/   what a running node writes: `HistoryStore`
read/    what is read: `SqliteHistory` for people, open runs at a start, runs by trigger id
verify/  whether rows and large values are valid; the slow check of a running node
check/   `journal check`
repair/  `journal repair`

`check` and `repair` are not imported here: a running node does not need them, and memory is short.
"""

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.adapters.sqlite.read.snapshot import open_runs_of
from fractal_rm.adapters.sqlite.write.store import HistoryStore

__all__ = ["HistoryStore", "SqliteHistory", "open_runs_of"]
