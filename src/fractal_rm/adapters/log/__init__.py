"""The journal: an append-only log of facts, and a history, into which the facts are copied."""

from fractal_rm.adapters.log.journal import LogJournal

__all__ = ["LogJournal"]
