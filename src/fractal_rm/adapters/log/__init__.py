"""The journal: an append-only log, whose facts are brought into a history that people read."""

from fractal_rm.adapters.log.journal import LogJournal

__all__ = ["LogJournal"]
