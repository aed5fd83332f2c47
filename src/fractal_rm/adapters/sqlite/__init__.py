"""The history on the disk: SQLite, with a checksum for every page of facts."""

from fractal_rm.adapters.sqlite.check import JournalReport, check_journal
from fractal_rm.adapters.sqlite.check_log import log_problems
from fractal_rm.adapters.sqlite.history import SqliteHistory, open_runs_of
from fractal_rm.adapters.sqlite.repair import RepairReport, repair
from fractal_rm.adapters.sqlite.store import HistoryStore

__all__ = [
    "HistoryStore",
    "JournalReport",
    "RepairReport",
    "SqliteHistory",
    "check_journal",
    "log_problems",
    "open_runs_of",
    "repair",
]
