"""The history on the disk: a SQLite database with a checksum for every row.

format/  defines the tables, statements, checksums and migrations
write/   writes the history of a running node: `HistoryStore`
read/    reads lists and single runs (`SqliteHistory`), open runs at a start, runs by trigger id
verify/  verifies rows and large values; a running node does so slowly in the background
check/   implements `journal check`
repair/  implements `journal repair`

This module does not import `check` and `repair`: a running node does not need them, and importing
them would cost memory.
"""

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.adapters.sqlite.read.snapshot import open_runs_of
from fractal_rm.adapters.sqlite.write.store import HistoryStore

__all__ = ["HistoryStore", "SqliteHistory", "open_runs_of"]
