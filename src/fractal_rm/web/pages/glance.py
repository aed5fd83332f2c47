"""What the bar at the top of every page says: is the node well, and what needs attention."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence

import msgspec

from fractal_rm.adapters.local_socket.other_processes import Statuses
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.engine.ports import History

KEPT_MS = 2_000
RECENT_MS = 24 * 3_600_000
MAX_COUNTED = 999
WITHIN_S = 0.02


class Glance(msgspec.Struct, frozen=True):
    """The node at a glance.

    ``failures`` and ``dead`` are the runs and dead letters of the last 24 hours with which no
    operator has done anything, up to `MAX_COUNTED`.
    """

    tone: str
    sign: str
    text: str
    failures: int = 0
    dead: int = 0


UNKNOWN = Glance("quiet", "", "")  # for whoever may not read


class Glances:
    """Makes the glance, at most once in two seconds."""

    def __init__(
        self,
        history: History,
        statuses: Callable[[], Awaitable[Statuses]],
        now_ms: Callable[[], int],
    ) -> None:
        self._history = history
        self._statuses = statuses
        self._now_ms = now_ms
        self._at_ms = -KEPT_MS
        self.newest = UNKNOWN
        self._one_at_a_time = asyncio.Lock()

    async def now(self) -> Glance:
        """The glance of the last two seconds."""
        async with self._one_at_a_time:
            now_ms = self._now_ms()
            if not 0 <= now_ms - self._at_ms < KEPT_MS:
                statuses = await self._statuses()
                tone, sign, text = health_of(statuses.processes)
                failures, dead = await asyncio.to_thread(self._count, now_ms)
                self.newest = Glance(tone, sign, text, failures, dead)
                self._at_ms = now_ms
            return self.newest

    def _count(self, now_ms: int) -> tuple[int, int]:
        recent = RunFilter(since_ms=now_ms - RECENT_MS, handled=False)
        states = tuple(TROUBLE_STATES)
        failed = msgspec.structs.replace(recent, states=states, dead_letters=False)
        dead = msgspec.structs.replace(recent, dead_letters=True)
        count = self._history.count
        return (
            count(failed, most=MAX_COUNTED, within_s=WITHIN_S).number,
            count(dead, most=MAX_COUNTED, within_s=WITHIN_S).number,
        )


def health_of(processes: Sequence[NodeStatus]) -> tuple[str, str, str]:
    """Whether the node is well: a tone, a sign and words."""
    faults = [name for each in processes for name, ok, _ in each.checks if not ok]
    if faults:
        return "fail", "✗", "not well: " + ", ".join(dict.fromkeys(faults))
    if any(each.draining for each in processes):
        return "wait", "‖", "draining"
    if any(each.paused for each in processes):
        return "wait", "‖", "paused"
    return "ok", "●", "well"
