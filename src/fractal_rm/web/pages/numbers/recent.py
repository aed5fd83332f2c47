"""What happened recently, read from the history once for all pages and browsers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.engine.ports import Clock, Failures, History, Minute
from fractal_rm.web.pages.numbers.kept import Kept

MINUTE_MS, HOUR_MS = 60_000, 3_600_000
SHOWN_MINUTES, SHOWN_HOURS = 60, 24
KEPT_S, HOURS_KEPT_S = 2.0, 20.0
WITHIN_S = 0.05  # for the failures: other questions wait meanwhile
T = TypeVar("T")


class Series(msgspec.Struct, frozen=True):
    """Counts of the last 60 minutes, or of the last 24 hours. ``step_ms``: a minute or an hour.

    There are ``steps`` of them, and the first begins at ``begin_ms``. The last one is not over.
    """

    begin_ms: int
    step_ms: int
    steps: int
    counts: list[Minute]

    @classmethod
    def before(cls, now_ms: int, step_ms: int, steps: int) -> Series:
        """The series that ends now, without counts."""
        begin_ms = now_ms // step_ms * step_ms - (steps - 1) * step_ms
        return cls(begin_ms, step_ms, steps, [])


class Counts(msgspec.Struct, frozen=True):
    """The counts of the last hour and of the last day. ``problem``: why they are not known."""

    minutes: Series
    hours: Series
    problem: str = ""


class Recent:
    """Answers of the history, which are kept for a few seconds.

    All methods but `counts` raise JournalError.
    """

    def __init__(self, history: History, clock: Clock) -> None:
        self._history = history
        self._clock = clock
        self._minutes = self._kept(self._read_minutes, KEPT_S)
        self._hours = self._kept(self._read_hours, HOURS_KEPT_S)
        self._failures = self._kept(self._read_failures, KEPT_S)
        self._last_trouble = self._kept(self._read_last_trouble, KEPT_S)

    async def minutes(self) -> Series:
        """The last 60 minutes of all flows."""
        return await self._minutes.get()

    async def hours(self) -> Series:
        """The last 24 hours of all flows. The counts are up to 20 s old."""
        return await self._hours.get()

    async def counts(self) -> Counts:
        """The minutes and the hours; without counts if the history cannot be read."""
        try:
            return Counts(await self.minutes(), await self.hours())
        except JournalError as error:
            now_ms = self._clock.now_ms()
            minutes = Series.before(now_ms, MINUTE_MS, SHOWN_MINUTES)
            return Counts(minutes, Series.before(now_ms, HOUR_MS, SHOWN_HOURS), str(error))

    async def failures(self) -> Failures:
        """The failures of the last 24 hours with which no operator has done anything."""
        return await self._failures.get()

    async def last_trouble_ms(self) -> int | None:
        """When the newest run in trouble ended, also a handled one. None: none is known."""
        return await self._last_trouble.get()

    def _kept(self, read: Callable[[], T], kept_s: float) -> Kept[T]:
        return Kept(lambda: asyncio.to_thread(read), kept_s, self._clock.monotonic_s)

    def _read_minutes(self) -> Series:
        return self._read_series(MINUTE_MS, SHOWN_MINUTES)

    def _read_hours(self) -> Series:
        return self._read_series(HOUR_MS, SHOWN_HOURS)

    def _read_series(self, step_ms: int, steps: int) -> Series:
        series = Series.before(self._clock.now_ms(), step_ms, steps)
        until_ms = series.begin_ms + steps * step_ms
        hours = step_ms == HOUR_MS
        counts = self._history.minutes(series.begin_ms, until_ms, hours=hours)
        return msgspec.structs.replace(series, counts=counts)

    def _read_failures(self) -> Failures:
        since_ms = self._clock.now_ms() - SHOWN_HOURS * HOUR_MS
        day = RunFilter(since_ms=since_ms, handled=False)
        return self._history.failures(day, within_s=WITHIN_S)

    def _read_last_trouble(self) -> int | None:
        in_trouble = RunFilter(states=tuple(TROUBLE_STATES), dead_letters=False)
        found = self._history.find(in_trouble, limit=1, within_s=0.02)
        times = [run.settled_ms or run.accepted_ms for run in found.runs]
        return max(times, default=None)
