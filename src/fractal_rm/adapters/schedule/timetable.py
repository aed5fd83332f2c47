"""When a flow begins by the clock: `EVERY` and `CRON`. Decides; nothing is done here.

    look ──> Due: moments to fire, in order ──fired──> done ──> the next look goes on from there
                  moments that are let go

`EVERY` counts on the steady clock, which nobody sets. `CRON` is about wall time, in a time zone: a
jump forward is a time that was slept through, and a jump back begins anew from there. Where it had
come to is remembered: when the clock is put right, it goes on from there. A moment is milliseconds
since 1970, UTC, on the clock of its rule, and names its run: what fires twice is one run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec
from msgspec import UNSET

from fractal_rm import MADE_MS
from fractal_rm.domain.flow import CatchUp, Cron, Flow

MOST_AT_ONCE = 1_000  # moments that one look makes up for
STEP_MS = 100  # less is what reading two clocks one after the other makes of it
JUMPED_MS = 2_000  # worth a line: in smaller steps a wall clock is corrected all the time
# By so much CRON may be ahead of the wall clock, which is then waited for, or behind it, without
# that its moments count as slept through.
SMALL_MS = 60_000
MOST_REMEMBERED = 8  # times from which the wall clock went back


class Due(msgspec.Struct, frozen=True):
    """``moments`` to fire; ``skipped`` were let go; ``jumped_ms``: so the wall clock jumped."""

    moments: tuple[int, ...] = ()
    skipped: int = 0
    jumped_ms: int = 0


class Rule(Protocol):
    """Which moments there are. ``spec`` names the rule: another one remembers nothing of it.

    ``by_wall``: its moments are wall time; otherwise they are of the steady clock.
    """

    spec: str
    by_wall: bool

    def newest(self, after_ms: int, until_ms: int, most: int) -> list[int]:
        """Of the moments after one and up to another the newest, oldest of these first."""
        ...

    def next_after(self, moment_ms: int) -> int | None:
        """The next one, or None where none comes any more."""
        ...


class Every:
    """``EVERY``: so many milliseconds apart, counted from the one before."""

    by_wall = False

    def __init__(self, every_ms: int) -> None:
        self.spec = f"EVERY {every_ms} ms"
        self._every_ms = every_ms

    def newest(self, after_ms: int, until_ms: int, most: int) -> list[int]:
        """See `Rule`."""
        count = max(0, until_ms - after_ms) // self._every_ms
        first = max(1, count - most + 1)
        return [after_ms + n * self._every_ms for n in range(first, count + 1)]

    def next_after(self, moment_ms: int) -> int | None:
        """See `Rule`."""
        return moment_ms + self._every_ms


class CronRule:
    """``CRON``: see `CronTimes`. Raises BadSchedule."""

    def __init__(self, cron: Cron) -> None:
        # A node without CRON loads no time zones.
        from fractal_rm.adapters.schedule.cron_times import CronTimes  # noqa: PLC0415

        self.spec = f"CRON {cron.expression} {cron.zone}"
        self.by_wall = True
        times = CronTimes(cron.expression, cron.zone)
        self.newest = times.newest
        self.next_after = times.next_after


class Timetable:
    """One rule of one flow, and how far it has come: ``last_ms``, the last moment that is done.

    It goes on from what an earlier process ``remembered``, and begins now where that is nothing.
    """

    def __init__(
        self,
        flow: str,
        rule: Rule,
        catch_up: CatchUp,
        remembered: Sequence[int],
        wall_ms: int,
        steady_ms: int,
    ) -> None:
        self.flow = flow
        self.rule = rule
        self.catch_up = catch_up
        now_ms = wall_ms if rule.by_wall else steady_ms
        self.last_ms, *self._left = remembered or [now_ms]
        self._steady_ms = steady_ms
        self._wall_ms = wall_ms  # what the wall clock should show, as the other one goes
        # What comes before the first look was slept through, and its clock may have been set.
        self._woke = self._is_new = bool(remembered)
        self._next_ms = self.rule.next_after(self.last_ms)

    @property
    def name(self) -> str:
        """Under which it is remembered."""
        return f"{self.flow} {self.rule.spec}"

    @property
    def remembered(self) -> list[int]:
        """Where a later process goes on: ``last_ms``, or where the clock went back from."""
        return [self.last_ms, *self._left]

    def wake(self) -> None:
        """What comes before the next look was slept through: the machine was suspended."""
        self._woke = True

    def look(self, wall_ms: int, steady_ms: int) -> Due:
        """What is due. Each moment of it is `done` when it is durable."""
        jumped_ms = self._jump(wall_ms, steady_ms)
        asleep, self._woke = self._woke, False
        now_ms = wall_ms if self.rule.by_wall else steady_ms
        if self._next_ms is None or now_ms < self._next_ms:
            return Due(jumped_ms=jumped_ms)
        found = self.rule.newest(self.last_ms, now_ms, MOST_AT_ONCE + 1)
        fired = found[len(found) - self._how_many(len(found), asleep=asleep) :]
        skipped = found[: len(found) - len(fired)]
        if skipped:
            self.done(skipped[-1])
        return Due(tuple(fired), len(skipped), jumped_ms)

    def done(self, moment_ms: int) -> None:
        """A moment is a run, or was let go."""
        self.last_ms = moment_ms
        self._next_ms = self.rule.next_after(moment_ms)

    def due_in_s(self, wall_ms: int, steady_ms: int) -> float:
        """After how many seconds the next moment comes, as the clocks stand."""
        now_ms = wall_ms if self.rule.by_wall else steady_ms
        return float("inf") if self._next_ms is None else (self._next_ms - now_ms) / 1000

    def _how_many(self, found: int, *, asleep: bool) -> int:
        """The newest comes in its time, unless the node was away then. The rest is made up for."""
        if self.catch_up is CatchUp.ALL:
            return min(found, MOST_AT_ONCE)
        return 0 if asleep and self.catch_up is CatchUp.NONE else min(found, 1)

    def _jump(self, wall_ms: int, steady_ms: int) -> int:
        """Follow a jump of the clock of the rule; returns how far it went, 0 for none worth a line.

        The steady clock jumps where its file was lost, and only between two processes.
        """
        self._wall_ms += steady_ms - self._steady_ms
        self._steady_ms = steady_ms
        jumped_ms, now_ms = 0, steady_ms
        if self.rule.by_wall:
            jumped_ms, now_ms = wall_ms - self._wall_ms, wall_ms
        if abs(jumped_ms) < STEP_MS and not self._is_new:
            return 0
        self._wall_ms, self._is_new = wall_ms, False
        behind_ms = self.last_ms - now_ms
        self._go_on_at(now_ms)
        self._woke = self._woke or jumped_ms > SMALL_MS
        if behind_ms > SMALL_MS:
            return -behind_ms
        return jumped_ms if abs(jumped_ms) >= JUMPED_MS else 0

    def _go_on_at(self, now_ms: int) -> None:
        """Go on from the latest time that it had come to by now, or from now.

        Of later ones, from which the clock went back, the first are remembered: the clock may have
        been wrong then, or be wrong now. A time before this program was made was wrong: nothing is
        made up for from there.
        """
        times = sorted({self.last_ms, *self._left})
        if now_ms >= MADE_MS:
            times = [ms for ms in times if ms >= MADE_MS]
        later = [ms for ms in times if ms - now_ms > SMALL_MS]
        self._left = later[:MOST_REMEMBERED]
        self.done(max((ms for ms in times if ms not in later), default=now_ms))


def rules_of(flow: Flow) -> list[Rule]:
    """Raises BadSchedule."""
    starts = flow.starts
    if starts is UNSET:
        return []
    rules: list[Rule] = [] if starts.every_ms is None else [Every(starts.every_ms)]
    if starts.cron is not None:
        rules.append(CronRule(starts.cron))
    return rules
