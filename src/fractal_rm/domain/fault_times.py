"""Remembers since when each check of a node is not well."""

from __future__ import annotations

from collections.abc import Iterable


class FaultTimes:
    """Call `update` every few seconds. Nothing is remembered over a restart."""

    def __init__(self) -> None:
        self._since_ms: dict[str, int] = {}

    def update(self, faults: Iterable[str], now_ms: int) -> dict[str, int]:
        """Since when each check in ``faults`` is not well, in milliseconds since 1970."""
        self._since_ms = {name: self._since_ms.get(name, now_ms) for name in faults}
        return dict(self._since_ms)
