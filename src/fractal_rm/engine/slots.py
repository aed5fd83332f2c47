"""How many calls may be in flight to one target at once, or to all together."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


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


class SharedSlots:
    """Slots that all targets share: one gets another while more are free than it holds.

    So a target that hangs leaves half of them to the others, a second one a quarter, and so on
    (A. K. Choudhury, E. L. Hahne: Dynamic queue length thresholds, 1998).
    """

    def __init__(self, most: int) -> None:
        self._free = most
        self._held: Counter[str] = Counter()
        self._lines: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def slot(self, target: str) -> AsyncGenerator[None, None]:
        """Hold one; getting it waits for those of this target who were first."""
        turn = asyncio.get_running_loop().create_future()
        self._lines.setdefault(target, deque()).append(turn)
        self._give()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._take_back(target)

    def _give(self) -> None:
        """Give what is free: first to the target that holds fewest, of equals in turn."""
        while self._lines:
            target = min(self._lines, key=self._held.__getitem__)
            if self._held[target] >= self._free:
                return
            line = self._lines.pop(target)
            turn = line.popleft()
            if line:
                self._lines[target] = line
            if not turn.cancelled():
                turn.set_result(None)
                self._free -= 1
                self._held[target] += 1

    def _take_back(self, target: str) -> None:
        self._free += 1
        self._held[target] -= 1
        if not self._held[target]:
            del self._held[target]
        self._give()
