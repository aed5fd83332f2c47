"""The levels and formats of the program's log."""

from __future__ import annotations

from fractal_rm.domain.actions import ActionRefused

# From the most lines to the fewest: every fact of every run, all events, only problems.
DEBUG, INFO, WARNING = "debug", "info", "warning"
LOG_LEVELS = (DEBUG, INFO, WARNING)
LOG_FORMATS = ("human", "json")


class UnknownLogLevel(ActionRefused):
    """There is no log level of this name."""

    code = "unknown-log-level"
    status = 400
    title = "There is no such log level"


def check_level(level: str) -> None:
    """Raise UnknownLogLevel if ``level`` is not in `LOG_LEVELS`."""
    if level not in LOG_LEVELS:
        raise UnknownLogLevel(f"the levels are {', '.join(LOG_LEVELS)}, and not {level!r:.40}")
