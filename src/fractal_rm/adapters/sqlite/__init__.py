"""The journal and the history on SQLite."""

from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.history import SqliteHistory, open_runs_of
from fractal_rm.adapters.sqlite.journal import SqliteJournal

__all__ = ["SqliteHistory", "SqliteJournal", "check_journal", "open_runs_of"]
