"""The rules that define at which times a flow starts: `EVERY` and `CRON`."""

from __future__ import annotations

from typing import Protocol

from msgspec import UNSET

from fractal_rm.domain.flow import Flow
from fractal_rm.domain.late_import import late_import


class Rule(Protocol):
    """Computes the moments at which a flow starts.

    ``name`` identifies the rule; its progress is stored under this name. ``by_wall_clock``: the
    moments are wall time; otherwise they are times of the steady clock.
    """

    name: str
    by_wall_clock: bool

    def newest(self, after_ms: int, until_ms: int, limit: int) -> list[int]:
        """The last ``limit`` moments after ``after_ms`` and up to ``until_ms``, oldest first."""
        ...

    def next_after(self, moment_ms: int) -> int | None:
        """The next moment after ``moment_ms``, or None if there is none."""
        ...


class Every:
    """The `Rule` of ``EVERY``: the interval between two moments is fixed."""

    by_wall_clock = False

    def __init__(self, every_ms: int) -> None:
        self.name = f"EVERY {every_ms} ms"
        self._every_ms = every_ms

    def newest(self, after_ms: int, until_ms: int, limit: int) -> list[int]:
        """See `Rule`."""
        count = max(0, until_ms - after_ms) // self._every_ms
        first = max(1, count - limit + 1)
        return [after_ms + n * self._every_ms for n in range(first, count + 1)]

    def next_after(self, moment_ms: int) -> int | None:
        """See `Rule`."""
        return moment_ms + self._every_ms


def rules_of(flow: Flow) -> list[Rule]:
    """The rules of a flow. Raises BadSchedule."""
    starts = flow.starts
    if starts is UNSET:
        return []
    rules: list[Rule] = [] if starts.every_ms is None else [Every(starts.every_ms)]
    if starts.cron is not None:
        cron_times = late_import("fractal_rm.adapters.schedule.cron_times")
        rules.append(cron_times.CronTimes(starts.cron.expression, starts.cron.zone))
    return rules
