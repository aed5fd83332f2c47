"""How many calls may be in flight to one target at once, where it has a limit."""

from __future__ import annotations

import asyncio


class Slots:
    """One line for each target that has a limit; a changed limit holds for those who come next."""

    def __init__(self) -> None:
        self._lines: dict[str, tuple[int, asyncio.Semaphore]] = {}

    def slot(self, target: str, limit: int | None) -> asyncio.Semaphore | None:
        """Hold it for as long as the call takes; getting it waits for those who were first.

        None: there is no limit.
        """
        if limit is None:
            return None
        known = self._lines.get(target)
        if known is None or known[0] != limit:
            known = self._lines[target] = limit, asyncio.Semaphore(limit)
        return known[1]
