"""Checks cron expressions and time zones.

The libraries for both are loaded for the first flow with a schedule, so that a node without
schedules needs less memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from enum import Enum
from functools import lru_cache

from fractal_rm.domain.descriptors import is_out_of_descriptors
from fractal_rm.domain.late_import import late_import

MAX_CHARACTERS = 200
_FIELDS = "minute, hour, day of the month, month, day of the week"
_ANY_MOMENT = datetime(2000, 1, 1, tzinfo=timezone.utc)


class ScheduleError(Exception):
    """The text is not a cron expression, or not a time zone.

    ``hint`` says what to write instead. ``valid_names`` are used to find a similar name.
    """

    def __init__(self, text: str, hint: str | None = None, valid_names: Sequence[str] = ()) -> None:
        super().__init__(text)
        self.hint = hint
        self.valid_names = valid_names


def check_cron(expression: str) -> None:
    """Raise ScheduleError if a text is not a cron expression of five fields."""
    if len(expression) > MAX_CHARACTERS or len(expression.split()) != 5:
        raise ScheduleError("a cron expression has five fields", f"the fields are: {_FIELDS}")
    cronsim = late_import("cronsim")
    try:
        cronsim.CronSim(expression, _ANY_MOMENT)
    except cronsim.CronSimError as error:  # "Bad day-of-month"
        field = str(error).removeprefix("Bad ").replace("-", " ")
        raise ScheduleError(f"the {field} of this cron expression is wrong",
                         f"the fields are: {_FIELDS}") from None  # fmt: skip
    except Exception:  # noqa: BLE001 - foreign code, and any text may come here
        raise ScheduleError("this is not a cron expression", f"the fields are: {_FIELDS}") from None


class DayRule(Enum):
    """Which days match the fields for the day of the month and the week, as in Debian's cron."""

    ONE_FIELD = "one field is *, and a day must match the other field"
    EITHER_FIELD = "a day must match one of the two fields"
    BOTH_FIELDS = "one field begins with * (such as */2), and a day must match both fields"


def day_rule(expression: str) -> DayRule:
    """The rule that applies to the day fields of a cron expression."""
    _minute, _hour, month_day, _month, week_day = expression.split()
    if "*" in (month_day, week_day):
        return DayRule.ONE_FIELD
    if month_day.startswith("*") or week_day.startswith("*"):
        return DayRule.BOTH_FIELDS
    return DayRule.EITHER_FIELD


def check_zone(name: str) -> None:
    """Raise ScheduleError if a text is not the name of an IANA time zone.

    Raises OSError if no file descriptor is free.
    """
    zoneinfo = late_import("zoneinfo")
    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        if is_out_of_descriptors(error):
            raise
        raise _unknown_zone(name) from None


def _unknown_zone(name: str) -> ScheduleError:
    """The error for an unknown time zone. If the text ends with a city, the hint names its zone."""
    zones = _zones()
    city = _city(name)
    zone_of_city = next((zone for zone in zones if _city(zone) == city), None)
    hint = zone_of_city and f'did you mean "{zone_of_city}"?'
    return ScheduleError(f'there is no time zone "{name}"', hint, zones)


def _city(zone: str) -> str:
    """The last part of the name of a time zone, in lower case."""
    _, _, city = zone.rpartition("/")
    return city.lower()


@lru_cache(maxsize=1)
def _zones() -> tuple[str, ...]:
    return tuple(sorted(late_import("zoneinfo").available_timezones()))
