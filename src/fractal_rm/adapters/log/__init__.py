"""The journal: an append-only log whose facts are copied into a history for queries."""

from fractal_rm.adapters.log.journal import LogJournal

__all__ = ["LogJournal"]
