"""Write a list of names for a sentence: the first few names, and the number of the others."""

from __future__ import annotations

from collections.abc import Sequence

MAX_LISTED = 8


def list_names(names: Sequence[str]) -> str:
    """The names as ``a, b, c``. A long list is cut: ``a, b, c and 1,200 more``."""
    more = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {more:,} more" if more > 0 else "")
