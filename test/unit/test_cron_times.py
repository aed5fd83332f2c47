"""The moments of a CRON expression, compared with a wall clock that is read every minute."""

from __future__ import annotations

from datetime import date, datetime, timedelta, timezone
from itertools import pairwise
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fractal_rm.adapters.schedule.cron_times import CronTimes

MINUTE = timedelta(minutes=1)
FIRST = datetime(2010, 1, 1, tzinfo=timezone.utc)
# The clocks of these zones change by half an hour, an hour, two hours or a day, up to four times a
# year. Some change at midnight or a minute after midnight.
ZONES = [
    "Europe/Rome", "America/New_York", "Australia/Lord_Howe", "Antarctica/Troll", "Pacific/Apia",
    "Africa/Cairo", "America/Havana", "America/Santiago", "America/St_Johns", "Africa/Casablanca",
    "Asia/Tehran", "Asia/Gaza", "Europe/Dublin", "Pacific/Chatham", "Asia/Kathmandu", "UTC",
]  # fmt: skip


def changes(zone: str) -> list[datetime]:
    """The UTC hours in which the clocks of a zone change, or [FIRST] if they never change."""

    def offset(at: datetime) -> timedelta | None:
        return at.astimezone(ZoneInfo(zone)).utcoffset()

    change_hours = []
    for day in (FIRST + timedelta(days=n) for n in range(800)):
        if offset(day) != offset(day + timedelta(days=1)):
            hours = (day + timedelta(hours=n) for n in range(24))
            change_hours.append(max(hour for hour in hours if offset(hour) == offset(day)))
    return change_hours or [FIRST]


class Fields:
    """The fields of an expression as sets, which need no parser. An empty set means ``*``."""

    def __init__(self, minutes, hours, days, months, weekdays):
        self.minutes, self.hours, self.days = minutes, hours, days
        self.months, self.weekdays = months, weekdays
        self.all_day = len(hours or range(24)) == 24

    @property
    def text(self) -> str:
        fields = (self.minutes, self.hours, self.days, self.months, self.weekdays)
        return " ".join(",".join(map(str, sorted(each))) if each else "*" for each in fields)

    def match(self, wall: datetime) -> bool:
        """Whether the fields match a wall time."""
        in_time = [wall.minute in (self.minutes or {wall.minute}),
                   wall.hour in (self.hours or {wall.hour}),
                   wall.month in (self.months or {wall.month})]  # fmt: skip
        by_day = [wall.day in self.days] if self.days else []
        by_day += [wall.isoweekday() % 7 in self.weekdays] if self.weekdays else []
        return all(in_time) and (any(by_day) or not by_day)


def moments_of_wall_clock(fields: Fields, zone: str, start: datetime, end: datetime) -> list[int]:
    """The moments in milliseconds, found by reading a wall clock every minute."""
    # No clock is set back by more than 3 hours, so all repeated wall times are read twice.
    moments_ms, at, earlier_wall_times = [], start - timedelta(hours=3), set()
    wall_before = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None) - MINUTE
    while at <= end:
        wall = at.astimezone(ZoneInfo(zone)).replace(tzinfo=None)
        due = fields.match(wall)
        if not fields.all_day:
            skipped = range(1, (wall - wall_before) // MINUTE)
            due = (due and wall not in earlier_wall_times) or any(
                fields.match(wall_before + n * MINUTE) for n in skipped
            )
        earlier_wall_times.add(wall)
        wall_before = wall
        if due and at > start:
            moments_ms.append(int(at.timestamp()) * 1000)
        at += MINUTE
    return moments_ms


CHANGES = {zone: changes(zone) for zone in ZONES}


def sets_of(values, max_size):
    return st.one_of(
        st.just(set()), st.sets(st.sampled_from(list(values)), min_size=1, max_size=max_size)
    )


@st.composite
def spans_around_clock_changes(draw):
    """A time zone, fields, and a time span around a change of the clocks."""
    zone = draw(st.sampled_from(ZONES))
    around = draw(st.sampled_from(CHANGES[zone]))
    hours = draw(st.one_of(sets_of(range(24), 6), st.just(set(range(24))), st.just({0, 1, 2, 3})))
    near = around.astimezone(ZoneInfo(zone)).date()
    days = sets_of({near.day, (near + timedelta(days=1)).day, 30, 31}, 2)
    weekdays = sets_of(range(7), 3)
    fields = Fields(draw(sets_of(range(60), 4)), hours, draw(days), set(), draw(weekdays))
    start = around - timedelta(minutes=draw(st.integers(1, 1_500)))
    return zone, fields, start, around + timedelta(minutes=draw(st.integers(1, 1_500)))


@settings(max_examples=60)
@given(spans_around_clock_changes())
def test_the_moments_are_equal_to_those_of_a_wall_clock_that_is_read_every_minute(case):
    zone, fields, start, end = case
    expected_ms = moments_of_wall_clock(fields, zone, start, end)
    times = CronTimes(fields.text, zone)
    start_ms, end_ms = (int(at.timestamp()) * 1000 for at in (start, end))
    assert times.newest(start_ms, end_ms, 10_000) == expected_ms
    assert times.newest(start_ms, end_ms, 3) == expected_ms[-3:]
    for moment_ms, next_ms in pairwise([start_ms, *expected_ms[:40]]):
        assert times.next_after(moment_ms) == next_ms
    if not expected_ms:
        following = times.next_after(start_ms)
        if following is not None:
            assert following > end_ms


def wall_times(expression: str, zone: str, *days: date) -> list[str]:
    """The moments on these days as wall times, such as ``02:30 +0200``."""
    tz = ZoneInfo(zone)
    first = datetime.combine(days[0], datetime.min.time(), tz) - MINUTE
    last = datetime.combine(days[-1] + timedelta(days=1), datetime.min.time(), tz) - MINUTE
    bounds = [int(at.timestamp()) * 1000 for at in (first, last)]
    moments = CronTimes(expression, zone).newest(*bounds, 100)
    return [f"{datetime.fromtimestamp(ms / 1000, tz):%H:%M %z}" for ms in moments]


SPRING, AUTUMN = date(2027, 3, 28), date(2027, 10, 31)


@pytest.mark.parametrize(
    ("expression", "spring", "autumn"),
    [
        ("*/30 2 * * *", ["03:00 +0200"], ["02:00 +0200", "02:30 +0200"]),
        ("30 2 * * *", ["03:00 +0200"], ["02:30 +0200"]),
        ("0 2,3 * * *", ["03:00 +0200"], ["02:00 +0200", "03:00 +0100"]),
        ("59 1 * * *", ["01:59 +0100"], ["01:59 +0200"]),
    ],
)
def test_a_moment_is_not_skipped_or_repeated_when_the_clocks_change_in_rome(
    expression, spring, autumn
):
    assert wall_times(expression, "Europe/Rome", SPRING) == spring
    assert wall_times(expression, "Europe/Rome", AUTUMN) == autumn


def test_a_star_and_all_24_hours_mean_the_same():
    for day, hours in ((SPRING, 23), (AUTUMN, 25)):
        as_star = wall_times("0 * * * *", "Europe/Rome", day)
        assert as_star == wall_times("0 0-23 * * *", "Europe/Rome", day)
        assert len(as_star) == hours


def test_moments_are_correct_if_the_clock_changes_by_half_an_hour():
    assert wall_times("15 2 * * *", "Australia/Lord_Howe", date(2027, 10, 3)) == ["02:30 +1100"]
    assert wall_times("45 1 * * *", "Australia/Lord_Howe", date(2027, 4, 4)) == ["01:45 +1100"]


def test_moments_are_correct_if_the_clock_is_set_back_over_midnight():
    # On 7 November 2010 at 0:01 (02:31 UTC), the clock was set back to 23:01.
    times = CronTimes("0,30 * * * *", "America/St_Johns")
    minute_ms, midnight = 60_000, int(datetime(2010, 11, 7, tzinfo=timezone.utc).timestamp())
    expected_ms = [midnight * 1000 + n * minute_ms for n in (120, 150, 180, 210)]
    assert times.newest(expected_ms[0] - 1, expected_ms[2], 10) == expected_ms[:3]
    for moment_ms, next_ms in pairwise(expected_ms):
        assert times.next_after(moment_ms) == next_ms


@pytest.mark.parametrize("expression", ["0 0 30 2 MON#5", "0 0 29 2 *"])
def test_a_rare_moment_is_found_forwards_and_backwards(expression):
    times = CronTimes(expression, "Europe/Rome")
    now_ms = 1_800_000_000_000
    following = times.next_after(now_ms)
    assert times.newest(now_ms, following, 5) == [following]


def test_an_expression_that_never_matches_has_no_next_moment():
    never = CronTimes("0 0 */31 2 MON#5", "UTC")  # 1 February is never a fifth Monday
    assert never.next_after(0) is None
    assert never.newest(0, 10 * 365 * 86_400_000, 5) == []
