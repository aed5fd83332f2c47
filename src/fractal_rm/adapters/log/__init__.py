"""The journal: an append-only log, and a history for queries that its facts are copied into."""

from fractal_rm.adapters.log.journal import LogJournal

__all__ = ["LogJournal"]
