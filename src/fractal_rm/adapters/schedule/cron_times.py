"""The moments of a CRON expression in a time zone, also where the clocks are changed.

A day of the calendar has the wall times that its fields name. What moment a wall time is:

    it comes once                  ──> that moment
    it is left out (spring)        ──> right after the gap
    it comes twice (autumn)        ──> the first of them

Unless the hour field names all 24 hours: then it is not about hours of the day but about the clock
as it goes, so what is left out is left out, and what comes twice comes twice.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from fractal_rm.domain.flow_errors import BadSchedule
from fractal_rm.domain.none_left import none_left

# To look for the next moment: 29 February is a Monday every 28 years, or after 40 about 2100.
MOST_DAYS = timedelta(days=366 * 50)
APART = timedelta(days=2)  # no moment is farther from the day of the calendar that names it
_ANY = datetime(2000, 1, 1, tzinfo=timezone.utc)


class CronTimes:
    """Moments are milliseconds since 1970, UTC.

    Raises BadSchedule, OSError where no file descriptor is free to read the time zone.

    Going forwards and backwards both ask for the moments of one day, so they cannot differ.
    """

    def __init__(self, expression: str, zone: str) -> None:
        try:
            self._zone = ZoneInfo(zone)
            self._fields = CronSim(expression, _ANY)
        except CronSimError as error:
            raise BadSchedule(f"CRON {expression!r:.60}: {error}") from error
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            if none_left(error):
                raise
            raise BadSchedule(f"there is no time zone {zone!r:.40}") from error
        self._as_it_goes = len(self._fields.hours) == 24
        self._moments_of = lru_cache(maxsize=16)(self._made_moments)

    def newest(self, after_ms: int, until_ms: int, most: int) -> list[int]:
        """Of the moments after one and up to another the newest, oldest of these first."""
        found: list[int] = []
        last = self._day_of(after_ms) - APART
        for day in self._days(self._day_of(until_ms) + APART, last):
            if day < last:
                break
            more = [ms for ms in self._moments_of(day) if after_ms < ms <= until_ms]
            if more:
                found = sorted({*found, *more})[-most:]
                if len(found) == most:  # days whose moments are all older are not looked at
                    last = self._day_of(found[0]) - APART
        return found

    def next_after(self, moment_ms: int) -> int | None:
        """The next moment, or None where none comes within 50 years."""
        found = None
        first = self._day_of(moment_ms) - APART
        for day in self._days(first, first + min(MOST_DAYS, date.max - first)):
            if found is not None and day > self._day_of(found) + APART:
                break
            later = [ms for ms in self._moments_of(day) if ms > moment_ms]
            found = min([*later, found] if found is not None else later, default=None)
        return found

    def _days(self, first: date, last: date) -> Iterator[date]:
        """The days that the fields name, from one to another, forwards or backwards."""
        fields, step = self._fields, 1 if first <= last else -1
        for number in range(first.toordinal(), last.toordinal() + step, step):
            day = date.fromordinal(number)
            if day.month in fields.months and fields.match_day(day):
                yield day

    def _day_of(self, moment_ms: int) -> date:
        return datetime.fromtimestamp(moment_ms / 1000, self._zone).date()

    def _made_moments(self, day: date) -> tuple[int, ...]:
        """The moments that a day of the calendar names, of those that `_days` yields."""
        found: list[int] = []
        for hour in self._fields.hours:
            first = datetime.combine(day, time(hour), self._zone)
            if first.utcoffset() == first.replace(minute=59, fold=1).utcoffset():
                start_ms = round(first.timestamp()) * 1000
                found += [start_ms + minute * 60_000 for minute in self._fields.minutes]
            else:  # the clocks are changed in this hour
                for minute in self._fields.minutes:
                    found += self._when(first.replace(minute=minute))
        return tuple(found)

    def _when(self, earlier: datetime) -> list[int]:
        """The moments at which the clocks of the zone show a time: one, two or none (PEP 495)."""
        first, second = round(earlier.timestamp()), round(earlier.replace(fold=1).timestamp())
        if first == second:
            return [first * 1000]
        if first < second:  # it comes twice
            return [first * 1000, second * 1000] if self._as_it_goes else [first * 1000]
        return [] if self._as_it_goes else [self._change_between(second, first) * 1000]

    def _change_between(self, before: int, after: int) -> int:
        """The second at which the clocks are changed, after one and up to another."""
        offset = self._offset(before)
        while after - before > 1:
            middle = (before + after) // 2
            if self._offset(middle) == offset:
                before = middle
            else:
                after = middle
        return after

    def _offset(self, at: int) -> timedelta | None:
        return datetime.fromtimestamp(at, self._zone).utcoffset()
