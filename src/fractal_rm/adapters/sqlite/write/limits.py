"""The limits of a history: how old and how large it may become."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class HistoryLimits(msgspec.Struct, frozen=True):
    """Limits of age and size. A run is dropped when it ended more than ``age_s`` ago.

    A run in trouble is dropped after the longer of ``failed_s`` and ``age_s``. If the history is
    larger than ``max_bytes``, the oldest runs are dropped. Because of the size, runs in trouble are
    dropped only if they alone take more than ``failed_bytes``, or if no other ended run is left.
    """

    age_s: int
    max_bytes: int
    failed_s: int
    failed_bytes: int


# Returns the current limits, which may change with the configuration.
GetHistoryLimits = Callable[[], HistoryLimits]
