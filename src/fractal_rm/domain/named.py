"""A list of names for a sentence: the first few, and the number of the others."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMED = 8


def named(names: Sequence[str]) -> str:
    """``a, b, c``; a long list is cut: ``a, b, c and 1,200 more``."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
