"""`journal check`: verify a journal from end to end, read-only."""

from fractal_rm.adapters.sqlite.check.journal import JournalReport, check_journal
from fractal_rm.adapters.sqlite.check.log import log_problems

__all__ = ["JournalReport", "check_journal", "log_problems"]
