"""The limit of the concurrent calls in flight, to all components together."""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager


class SharedSlots:
    """Slots that all targets share. A target gets a slot if more slots are free than it holds.

    A target that hangs takes at most half of the slots. A second such target takes at most a
    quarter, and so on (A. K. Choudhury, E. L. Hahne: Dynamic queue length thresholds, 1998).
    """

    def __init__(self, total: int) -> None:
        self._free = total
        self._held: Counter[str] = Counter()
        self._queues: dict[str, deque[asyncio.Future[None]]] = {}

    @asynccontextmanager
    async def slot(self, target: str) -> AsyncGenerator[None, None]:
        """Hold a slot in a ``with`` block. Callers with the same target get slots in order."""
        turn = asyncio.get_running_loop().create_future()
        self._queues.setdefault(target, deque()).append(turn)
        self._assign()
        try:
            await turn
            yield
        finally:
            if turn.done() and not turn.cancelled():
                self._release(target)

    def _assign(self) -> None:
        """Assign free slots to the target that holds the fewest. If several do, they take turns."""
        while self._queues:
            target = min(self._queues, key=self._held.__getitem__)
            if self._held[target] >= self._free:
                return
            queue = self._queues.pop(target)
            turn = queue.popleft()
            if queue:
                self._queues[target] = queue
            if not turn.cancelled():
                turn.set_result(None)
                self._free -= 1
                self._held[target] += 1

    def _release(self, target: str) -> None:
        self._free += 1
        self._held[target] -= 1
        if not self._held[target]:
            del self._held[target]
        self._assign()
