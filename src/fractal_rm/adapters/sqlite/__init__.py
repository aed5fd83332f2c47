"""The history on the disk: SQLite, with a checksum for every row.

What looks for damage and repairs it (`check`, `check_log`, `repair`) is not imported here: a node
that runs has no use for it, and memory is short.
"""

from fractal_rm.adapters.sqlite.history import SqliteHistory, open_runs_of
from fractal_rm.adapters.sqlite.store import HistoryStore

__all__ = ["HistoryStore", "SqliteHistory", "open_runs_of"]
