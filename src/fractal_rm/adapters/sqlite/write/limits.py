"""The limits of a history: how old and how large it may become."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class HistoryLimits(msgspec.Struct, frozen=True):
    """Limits of age and size. A run is dropped when it ended more than ``age_s`` ago.

    A run in trouble is dropped after ``failed_s``, or after ``age_s`` if that is longer. If the
    history is larger than ``max_bytes``, older runs are dropped; runs in trouble only if they
    alone use more than ``failed_bytes``, or if no other run is left to drop.
    """

    age_s: int
    max_bytes: int
    failed_s: int
    failed_bytes: int


# Returns the current limits: the configuration may change.
GetHistoryLimits = Callable[[], HistoryLimits]
