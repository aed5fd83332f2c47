"""A list in a sentence for people: it names a few, and says how many more there are."""

from __future__ import annotations

from collections.abc import Sequence

MOST_NAMED = 8


def named(names: Sequence[str]) -> str:
    """``a, b, c``, or the first of them ``and 1,200 more``."""
    more = len(names) - MOST_NAMED
    return ", ".join(names[:MOST_NAMED]) + (f" and {more:,} more" if more > 0 else "")
