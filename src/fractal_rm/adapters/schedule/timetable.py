"""Decides at which moments a flow starts. It does no I/O.

    find_due ──> Due: moments to fire, in order ──fired──> note_done ──> find_due continues there
                      moments that are skipped

`EVERY` uses the steady clock, which nobody sets. `CRON` uses wall time in a time zone. A jump
forward of the wall clock counts as downtime. After a jump back, the rule continues from the new
time. The time before a jump back is remembered: when the clock is corrected, the rule continues
from the remembered time.

A moment is in milliseconds since 1970, UTC, on the clock of its rule. The moment identifies the
run: if a moment is fired twice, there is one run.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm import RELEASED_MS
from fractal_rm.adapters.schedule.rules import Rule
from fractal_rm.domain.flow import CatchUp

MAX_CATCH_UP = 1_000  # moments that one call of `find_due` can return
# Smaller differences between the two clocks are not jumps: they are read one after the other.
STEP_MS = 100
REPORTED_JUMP_MS = 2_000  # smaller corrections of the wall clock are normal
# If the wall clock is behind the last moment by no more than this, CRON waits for the next moment.
# If the clock jumps forward by no more than this, the moments in between do not count as downtime.
SMALL_JUMP_MS = 60_000
MAX_REMEMBERED = 8  # how many jumps back of the wall clock a timetable remembers


class Due(msgspec.Struct, frozen=True):
    """What is due: ``moments`` to fire, and the number of moments that are ``skipped``.

    ``jumped_ms``: how far the wall clock jumped, if the jump should be reported; else 0.
    """

    moments: tuple[int, ...] = ()
    skipped: int = 0
    jumped_ms: int = 0


class Timetable:
    """One rule of one flow, with its progress: ``last_ms`` is the last moment that was handled.

    ``progress`` is the progress of an earlier process. The timetable continues from there. If
    ``progress`` is empty, the timetable begins now.
    """

    def __init__(
        self,
        flow: str,
        rule: Rule,
        catch_up: CatchUp,
        progress: Sequence[int],
        wall_ms: int,
        steady_ms: int,
    ) -> None:
        self.flow = flow
        self.rule = rule
        self.catch_up = catch_up
        now_ms = wall_ms if rule.by_wall_clock else steady_ms
        self.last_ms, *self._future_times = progress or [now_ms]
        self._steady_ms = steady_ms
        self._wall_ms = wall_ms  # what the wall clock shows if nobody sets it
        # If there was an earlier process, moments before the first `find_due` were missed in
        # downtime, and the clock may have been set since.
        self._was_down = self._clock_unchecked = bool(progress)
        self._next_ms = self.rule.next_after(self.last_ms)

    @property
    def name(self) -> str:
        """The name under which the progress of this timetable is stored."""
        return f"{self.flow} {self.rule.name}"

    @property
    def progress(self) -> list[int]:
        """The progress: ``last_ms``, then the times from which the wall clock jumped back."""
        return [self.last_ms, *self._future_times]

    def note_suspended(self) -> None:
        """Note that the machine was suspended: moments up to now were missed in downtime."""
        self._was_down = True

    def find_due(self, wall_ms: int, steady_ms: int) -> Due:
        """Find what is due now. Call `note_done` for each returned moment when it is durable."""
        jumped_ms = self._follow_clock(wall_ms, steady_ms)
        was_down, self._was_down = self._was_down, False
        now_ms = wall_ms if self.rule.by_wall_clock else steady_ms
        if self._next_ms is None or now_ms < self._next_ms:
            return Due(jumped_ms=jumped_ms)
        due = self.rule.newest(self.last_ms, now_ms, MAX_CATCH_UP + 1)
        skipped_count = len(due) - self._count_to_fire(len(due), was_down=was_down)
        if skipped_count:
            self.note_done(due[skipped_count - 1])
        return Due(tuple(due[skipped_count:]), skipped_count, jumped_ms)

    def note_done(self, moment_ms: int) -> None:
        """Note that a moment has become a run, or was skipped."""
        self.last_ms = moment_ms
        self._next_ms = self.rule.next_after(moment_ms)

    def due_in_s(self, wall_ms: int, steady_ms: int) -> float:
        """Seconds until the next moment if nobody sets the clock; infinite if there is none."""
        now_ms = wall_ms if self.rule.by_wall_clock else steady_ms
        return float("inf") if self._next_ms is None else (self._next_ms - now_ms) / 1000

    def _count_to_fire(self, due_count: int, *, was_down: bool) -> int:
        """How many of ``due_count`` moments are fired, according to the flow's `CATCHUP`.

        Without downtime, the newest moment is on time and is always fired.
        """
        if self.catch_up is CatchUp.ALL:
            return min(due_count, MAX_CATCH_UP)
        return 0 if was_down and self.catch_up is CatchUp.NONE else min(due_count, 1)

    def _follow_clock(self, wall_ms: int, steady_ms: int) -> int:
        """Follow a jump of the rule's clock. Returns the jump to report, in ms, or 0.

        The steady clock jumps only if its file was lost between two processes.
        """
        self._wall_ms += steady_ms - self._steady_ms
        self._steady_ms = steady_ms
        jumped_ms, now_ms = 0, steady_ms
        if self.rule.by_wall_clock:
            jumped_ms, now_ms = wall_ms - self._wall_ms, wall_ms
        if abs(jumped_ms) < STEP_MS and not self._clock_unchecked:
            return 0
        self._wall_ms, self._clock_unchecked = wall_ms, False
        behind_ms = self.last_ms - now_ms
        self._continue_from(now_ms)
        self._was_down = self._was_down or jumped_ms > SMALL_JUMP_MS
        if behind_ms > SMALL_JUMP_MS:
            return -behind_ms
        return jumped_ms if abs(jumped_ms) >= REPORTED_JUMP_MS else 0

    def _continue_from(self, now_ms: int) -> None:
        """Continue from the latest remembered time that is not in the future, or from now.

        Remembered times in the future are times from which the clock jumped back. Either those
        times were wrong, or the clock is wrong now, so the earliest of them stay remembered. A time
        before the release date of this program is certainly wrong, so this method does not continue
        from it.
        """
        times = sorted({self.last_ms, *self._future_times})
        if now_ms >= RELEASED_MS:
            times = [ms for ms in times if ms >= RELEASED_MS]
        later = [ms for ms in times if ms - now_ms > SMALL_JUMP_MS]
        self._future_times = later[:MAX_REMEMBERED]
        self.note_done(max((ms for ms in times if ms not in later), default=now_ms))
