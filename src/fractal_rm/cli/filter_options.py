"""The options that choose runs. Lists, and commands that act on many runs, have the same ones."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from functools import wraps
from typing import Any, TypeVar

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.cli.completion import complete_component, complete_flow
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.flowlang.duration import duration_ms

TIME_HINT = (
    "give a length of time such as 30m, 6h or 2d, a time of day such as 14:02, or a date and a time"
    " such as 2026-11-29T14:02 or 2026-11-29T14:02:30Z"
)
_F = TypeVar("_F", bound=Callable[..., Any])
_AGO = re.compile(r"([0-9]{1,6})(s|m|h|d|w)")
_AGO_MS = {"s": 1_000, "m": 60_000, "h": 3_600_000, "d": 86_400_000, "w": 7 * 86_400_000}
_TIME_OF_DAY = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])(?::([0-5][0-9]))?")
_STATES = [state.value for state in State if state is not State.NEW]


def time_ms(text: str, now_ms: int) -> int | None:
    """Read a time: milliseconds since 1970; None if the text is not a time.

    ``6h`` is six hours before ``now_ms``. ``14:02`` is the last time when it was 14:02. A time
    without a zone is local time.
    """
    if match := _AGO.fullmatch(text):
        return now_ms - int(match[1]) * _AGO_MS[match[2]]
    try:
        if match := _TIME_OF_DAY.fullmatch(text):
            now = datetime.fromtimestamp(now_ms / 1000, timezone.utc).astimezone()
            hour, minute, second = (int(part or 0) for part in match.groups())
            # Without the zone, because another day may have another offset.
            at = now.replace(hour=hour, minute=minute, second=second, microsecond=0, tzinfo=None)
            if at.astimezone() > now:
                at -= timedelta(days=1)
        else:
            at = datetime.fromisoformat(f"{text[:-1]}+00:00" if text[-1:] in "Zz" else text)
        return round(at.astimezone().timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def _read_time(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> int | None:
    """Return the time of an option in milliseconds since 1970."""
    if text is None:
        return None
    at_ms = time_ms(text, SystemClock.now_ms())
    if at_ms is None:
        raise click.BadParameter(f"{text!r} is not a time: {TIME_HINT}")
    return at_ms


def _states(
    _context: click.Context, _parameter: click.Parameter, names: tuple[str, ...]
) -> tuple[State, ...] | None:
    return tuple(map(State, names)) or None


def _read_duration(
    _context: click.Context, _parameter: click.Parameter, text: str | None
) -> int | None:
    """Return the duration of an option in milliseconds."""
    ms = None if text is None else duration_ms(text)
    if text is not None and ms is None:
        hint = "give a time from 1ms to 24h, such as 500ms, 2s or 5m"
        raise click.BadParameter(f"{text!r:.200} is not a length of time: {hint}")
    return ms


# The name of each option's value is that of the field of `RunFilter`.
_OPTIONS = {
    "flow": click.option(
        "--flow", metavar="ID", help="Only runs of this flow.", shell_complete=complete_flow
    ),
    "states": click.option(
        "--state", "states", type=click.Choice(_STATES), multiple=True, callback=_states,
        metavar="STATE", help=f"Only runs in this state: {', '.join(_STATES)}. May be repeated.",
    ),
    "component": click.option(
        "--component", metavar="NAME", help="Only runs in trouble that called this component last.",
        shell_complete=complete_component,
    ),
    "cause": click.option("--cause", metavar="CODE", help="Only those with this cause of trouble."),
    "node": click.option(
        "--node", metavar="ID", help='Only runs that went to this node; "here": to no other node.'
    ),
    "source": click.option(
        "--source", metavar="NAME", help="Only those that came from here: mqtt, rest, schedule, …"
    ),
    "since_ms": click.option(
        "--since", "since_ms", callback=_read_time, metavar="TIME",
        help="Only those accepted at this time or later: 6h (ago), 14:02, 2026-11-29T14:02.",
    ),
    "until_ms": click.option(
        "--until", "until_ms", callback=_read_time, metavar="TIME",
        help="Only those accepted before this time.",
    ),
    "text": click.option(
        "--text", metavar="TEXT", help="Only those in trouble whose reason contains this text."
    ),
    "handled": click.option(
        "--handled/--not-handled", default=None,
        help="Only those that an operator has repeated or discarded, or has not.",
    ),
    "slower_ms": click.option(
        "--slower", "slower_ms", callback=_read_duration, metavar="TIME",
        help="Only runs that ended after this time or more, such as 1s, since they were accepted.",
    ),
}  # fmt: skip
_OF_LETTERS = ("cause", "source", "since_ms", "until_ms", "text", "handled")


def filter_options(command: _F) -> _F:
    """Add all options to a command. It gets their values as the argument ``run_filter``."""
    return _with_options(command, tuple(_OPTIONS))


def letter_filter_options(command: _F) -> _F:
    """Add the options that concern dead letters. The command gets them as ``run_filter``."""
    return _with_options(command, _OF_LETTERS)


def _with_options(command: _F, names: tuple[str, ...]) -> _F:
    @wraps(command)
    def with_filter(*args: Any, **values: Any) -> Any:
        conditions = {name: values.pop(name) for name in names}
        return command(*args, run_filter=RunFilter(**conditions), **values)

    decorated: Any = with_filter
    for name in reversed(names):
        decorated = _OPTIONS[name](decorated)
    return decorated
