"""The moments of a CRON expression in a time zone with daylight saving time.

The fields of the expression define wall times on days of the calendar. Each wall time becomes a
moment:

    the wall time occurs once              ──> that moment
    the wall time is skipped (spring)      ──> the moment right after the gap
    the wall time occurs twice (autumn)    ──> the first of the two moments

If the hour field has all 24 hours, the rule means intervals, not hours of a day. In this case, a
skipped wall time has no moment, and a wall time that occurs twice has two moments.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta, timezone
from functools import lru_cache
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError

from fractal_rm.domain.descriptors import is_out_of_descriptors
from fractal_rm.domain.flow_errors import BadSchedule

# How far ahead the next moment is searched. The rarest rules have a moment every 28 years, such as
# 29 February on a Monday. Around 2100, there are 40 years between two such moments.
SEARCH_LIMIT = timedelta(days=366 * 50)
# No moment is further than this from its day. (If a zone skips a whole day, the moments of that day
# are on the next day.)
MAX_SHIFT = timedelta(days=2)
_ANY = datetime(2000, 1, 1, tzinfo=timezone.utc)


class CronTimes:
    """The `Rule` of a CRON expression. Moments are milliseconds since 1970, UTC.

    Raises BadSchedule. Raises OSError if no file descriptor is free to read the time zone.

    The forward and the backward search use the same function for the moments of one day, so both
    find the same moments.
    """

    by_wall_clock = True

    def __init__(self, expression: str, zone: str) -> None:
        self.name = f"CRON {expression} {zone}"
        try:
            self._zone = ZoneInfo(zone)
            self._fields = CronSim(expression, _ANY)
        except CronSimError as error:
            raise BadSchedule(f"CRON {expression!r:.60}: {error}") from error
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            if is_out_of_descriptors(error):
                raise
            raise BadSchedule(f"there is no time zone {zone!r:.40}") from error
        self._all_hours = len(self._fields.hours) == 24
        self._moments_of = lru_cache(maxsize=16)(self._compute_moments)

    def newest(self, after_ms: int, until_ms: int, limit: int) -> list[int]:
        """The last ``limit`` moments after ``after_ms`` and up to ``until_ms``, oldest first."""
        moments: list[int] = []
        last = self._day_of(after_ms) - MAX_SHIFT
        for day in self._days(self._day_of(until_ms) + MAX_SHIFT, last):
            if day < last:
                break
            of_day = [ms for ms in self._moments_of(day) if after_ms < ms <= until_ms]
            if of_day:
                moments = sorted({*moments, *of_day})[-limit:]
                if len(moments) == limit:  # skip days whose moments are all older
                    last = self._day_of(moments[0]) - MAX_SHIFT
        return moments

    def next_after(self, moment_ms: int) -> int | None:
        """The next moment, or None if there is none within 50 years."""
        earliest = None
        first = self._day_of(moment_ms) - MAX_SHIFT
        for day in self._days(first, first + min(SEARCH_LIMIT, date.max - first)):
            if earliest is not None and day > self._day_of(earliest) + MAX_SHIFT:
                break  # this day and the next ones have no moment before `earliest`
            later = [ms for ms in self._moments_of(day) if ms > moment_ms]
            if earliest is not None:
                later.append(earliest)
            earliest = min(later, default=None)
        return earliest

    def _days(self, first: date, last: date) -> Iterator[date]:
        """The days that match the fields, from ``first`` to ``last``, which may be earlier."""
        fields, step = self._fields, 1 if first <= last else -1
        for number in range(first.toordinal(), last.toordinal() + step, step):
            day = date.fromordinal(number)
            if day.month in fields.months and fields.match_day(day):
                yield day

    def _day_of(self, moment_ms: int) -> date:
        return datetime.fromtimestamp(moment_ms / 1000, self._zone).date()

    def _compute_moments(self, day: date) -> tuple[int, ...]:
        """The moments of a day that matches the fields."""
        moments: list[int] = []
        for hour in self._fields.hours:
            first = datetime.combine(day, time(hour), self._zone)
            if first.utcoffset() == first.replace(minute=59, fold=1).utcoffset():
                start_ms = round(first.timestamp()) * 1000
                moments += [start_ms + minute * 60_000 for minute in self._fields.minutes]
            else:  # the clocks change in this hour
                for minute in self._fields.minutes:
                    moments += self._moments_at(first.replace(minute=minute))
        return tuple(moments)

    def _moments_at(self, wall_time: datetime) -> list[int]:
        """The moments of a wall time: one, two or none (PEP 495)."""
        first, second = round(wall_time.timestamp()), round(wall_time.replace(fold=1).timestamp())
        if first == second:
            return [first * 1000]
        if first < second:  # the wall time occurs twice
            return [first * 1000, second * 1000] if self._all_hours else [first * 1000]
        return [] if self._all_hours else [self._change_between(second, first) * 1000]

    def _change_between(self, start: int, end: int) -> int:
        """The first second after ``start`` with another UTC offset. ``end`` has this offset."""
        offset = self._offset(start)
        while end - start > 1:
            middle = (start + end) // 2
            if self._offset(middle) == offset:
                start = middle
            else:
                end = middle
        return end

    def _offset(self, at: int) -> timedelta | None:
        return datetime.fromtimestamp(at, self._zone).utcoffset()
