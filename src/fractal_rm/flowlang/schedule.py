"""Cron expressions and time zones: whether they are any.

What it takes to read them is loaded for the first flow that has one: a node without stays small.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timezone
from functools import lru_cache

from fractal_rm.domain.none_left import none_left

MOST_CHARACTERS = 200
_FIELDS = "minute, hour, day of the month, month, day of the week"
_ANY_MOMENT = datetime(2000, 1, 1, tzinfo=timezone.utc)


class NoSchedule(Exception):
    """The text is no cron expression or no time zone; what helps, or what it may have meant."""

    def __init__(self, why: str, hint: str | None = None, known: Sequence[str] = ()) -> None:
        super().__init__(why)
        self.hint = hint
        self.known = known


def check_cron(expression: str) -> None:
    """Raise NoSchedule where a text is not a cron expression of five fields."""
    if len(expression) > MOST_CHARACTERS or len(expression.split()) != 5:
        raise NoSchedule("a cron expression has five fields", f"they are: {_FIELDS}")
    from cronsim import CronSim, CronSimError  # noqa: PLC0415 - see above

    try:
        CronSim(expression, _ANY_MOMENT)
    except CronSimError as error:  # "Bad day-of-month"
        which = str(error).removeprefix("Bad ").replace("-", " ")
        raise NoSchedule(f"the {which} of this cron expression is not one",
                         f"the fields are: {_FIELDS}") from None  # fmt: skip
    except Exception:  # noqa: BLE001 - foreign code, and any text may come here
        raise NoSchedule("this is not a cron expression", f"its fields are: {_FIELDS}") from None


def days_fit(expression: str) -> str | None:
    """``one`` or ``both`` of the two fields for days must fit; None where one says nothing.

    As in Debian's cron: both, where one of them begins with a star.
    """
    fields = expression.split()
    month_day, week_day = fields[2], fields[4]
    if "*" in (month_day, week_day):
        return None
    return "both" if month_day.startswith("*") or week_day.startswith("*") else "one"


def check_zone(name: str) -> None:
    """Raise NoSchedule where a text is not the name of an IANA time zone.

    Raises OSError where no file descriptor is free to look.
    """
    import zoneinfo  # noqa: PLC0415 - see above

    try:
        zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError) as error:
        if none_left(error):
            raise
        raise _no_zone(name) from None  # no such file, or a folder


def _no_zone(name: str) -> NoSchedule:
    """Where only a city is given, the zone of that city is what was meant."""
    zones = _zones()
    city = name.rpartition("/")[2].lower()
    there = next((zone for zone in zones if zone.rpartition("/")[2].lower() == city), None)
    hint = there and f'did you mean "{there}"?'
    return NoSchedule(f'there is no time zone "{name}"', hint, zones)


@lru_cache(maxsize=1)
def _zones() -> tuple[str, ...]:
    import zoneinfo  # noqa: PLC0415 - see above

    return tuple(sorted(zoneinfo.available_timezones()))
