"""How much history is kept."""

from __future__ import annotations

from collections.abc import Callable

import msgspec


class HistoryLimits(msgspec.Struct, frozen=True):
    """Limits of age and size. Runs in trouble are kept for ``failed_s``, or ``age_s`` if longer.

    If the history is larger than ``most_bytes``, runs in trouble are dropped only if they alone
    take more than ``failed_bytes``, or if nothing else is left to drop.
    """

    age_s: int
    most_bytes: int
    failed_s: int
    failed_bytes: int


GetHistoryLimits = Callable[[], HistoryLimits]  # the limits now: the configuration may change
