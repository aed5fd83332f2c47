"""Lists names for a sentence: the first names, and the number of the other names."""

from __future__ import annotations

from collections.abc import Sequence

MAX_LISTED = 8


def list_names(names: Sequence[str]) -> str:
    """The names as ``a, b, c``. A long list is cut: ``a, b, c and 1,200 more``."""
    unlisted = len(names) - MAX_LISTED
    return ", ".join(names[:MAX_LISTED]) + (f" and {unlisted:,} more" if unlisted > 0 else "")
