"""Checks cron expressions and time zones.

The libraries for both are loaded for the first flow with a schedule, so that a node without
schedules needs less memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from functools import lru_cache

from fractal_rm.domain.descriptors import is_out_of_descriptors
from fractal_rm.domain.late_import import late_import

MAX_CHARACTERS = 200
_FIELDS = "minute, hour, day of the month, month, day of the week"
_ANY_MOMENT = datetime(2000, 1, 1, tzinfo=timezone.utc)


class ScheduleError(Exception):
    """The text is not a cron expression, or not a time zone.

    ``hint`` says what to write instead. ``known`` has the valid names, to find a similar name.
    """

    def __init__(self, why: str, hint: str | None = None, known: Sequence[str] = ()) -> None:
        super().__init__(why)
        self.hint = hint
        self.known = known


def check_cron(expression: str) -> None:
    """Raise ScheduleError if a text is not a cron expression of five fields."""
    if len(expression) > MAX_CHARACTERS or len(expression.split()) != 5:
        raise ScheduleError("a cron expression has five fields", f"the fields are: {_FIELDS}")
    cronsim = late_import("cronsim")
    try:
        cronsim.CronSim(expression, _ANY_MOMENT)
    except cronsim.CronSimError as error:  # "Bad day-of-month"
        which = str(error).removeprefix("Bad ").replace("-", " ")
        raise ScheduleError(f"the {which} of this cron expression is wrong",
                         f"the fields are: {_FIELDS}") from None  # fmt: skip
    except Exception:  # noqa: BLE001 - foreign code, and any text may come here
        raise ScheduleError("this is not a cron expression", f"the fields are: {_FIELDS}") from None


def matching_days(expression: str) -> str | None:
    """How many of the two day fields a day must match, as in Debian's cron: ``one`` or ``both``.

    Both, if one of the fields begins with a star. None if one of the fields is only a star.
    """
    fields = expression.split()
    month_day, week_day = fields[2], fields[4]
    if "*" in (month_day, week_day):
        return None
    return "both" if month_day.startswith("*") or week_day.startswith("*") else "one"


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
    """The error for an unknown time zone. If the text names a city, the hint is its time zone."""
    zones = _zones()
    city = name.rpartition("/")[2].lower()
    match = next((zone for zone in zones if zone.rpartition("/")[2].lower() == city), None)
    hint = match and f'did you mean "{match}"?'
    return ScheduleError(f'there is no time zone "{name}"', hint, zones)


@lru_cache(maxsize=1)
def _zones() -> tuple[str, ...]:
    return tuple(sorted(late_import("zoneinfo").available_timezones()))
