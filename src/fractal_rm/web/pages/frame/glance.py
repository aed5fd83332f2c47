"""What the bar at the top of every page says: is the node well, and what needs attention."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import msgspec

from fractal_rm.adapters.local_socket.other_processes import Statuses
from fractal_rm.domain.conditions import not_well
from fractal_rm.domain.health import Health, health_of
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.engine.ports import Clock, Count, History
from fractal_rm.web.pages.numbers.figures import trouble_now
from fractal_rm.web.pages.numbers.kept import Kept
from fractal_rm.web.pages.numbers.own_conditions import OwnConditions
from fractal_rm.web.pages.numbers.recent import Recent

KEPT_S = 2.0
RECENT_MS = 24 * 3_600_000
MAX_COUNTED = 999
WITHIN_S = 0.025  # for each of the two counts


class Glance(msgspec.Struct, frozen=True):
    """The node at a glance.

    ``failures`` and ``dead`` are the runs and dead letters of the last 24 hours with which no
    operator has done anything, up to `MAX_COUNTED`.
    """

    health: Health
    failures: int = 0
    dead: int = 0


UNKNOWN = Glance(Health("quiet", "", ""))  # for whoever may not read


class Glances:
    """Makes the glance, at most once in two seconds."""

    def __init__(
        self,
        history: History,
        recent: Recent,
        statuses: Callable[[], Awaitable[Statuses]],
        conditions: OwnConditions,
        clock: Clock,
    ) -> None:
        self._history = history
        self._recent = recent
        self._statuses = statuses
        self._conditions = conditions
        self._clock = clock
        self.newest = UNKNOWN
        self._kept = Kept(self._make, KEPT_S, clock.monotonic_s)

    async def now(self) -> Glance:
        """The glance of the last two seconds."""
        self.newest = await self._kept.get()
        return self.newest

    async def _make(self) -> Glance:
        statuses, now_ms = await self._statuses(), self._clock.now_ms()
        try:
            trouble = trouble_now(await self._recent.minutes(), await self._recent.hours(), now_ms)
            last_ms = await self._recent.last_trouble_ms()
            others = not_well(await self._conditions.now(statuses.processes, wait_s=0))
            failures, dead = await asyncio.to_thread(self._count, now_ms)
        except JournalError:  # the pages that need the journal say why
            return Glance(Health("fail", "✗", "a journal cannot be read"))
        health = health_of(statuses.processes, statuses.silent, trouble, last_ms, now_ms, others)
        return Glance(health, failures, dead)

    def _count(self, now_ms: int) -> tuple[int, int]:
        recent = RunFilter(since_ms=now_ms - RECENT_MS, handled=False)
        states = tuple(TROUBLE_STATES)
        failed = msgspec.structs.replace(recent, states=states, dead_letters=False)
        dead = msgspec.structs.replace(recent, dead_letters=True)
        count = self._history.count
        return (
            _number(count(failed, most=MAX_COUNTED, within_s=WITHIN_S), self.newest.failures),
            _number(count(dead, most=MAX_COUNTED, within_s=WITHIN_S), self.newest.dead),
        )


def _number(counted: Count, before: int) -> int:
    """What was counted. A count that was ended early does not lower the number before it."""
    return counted.number if counted.is_exact else max(counted.number, before)
