"""The log of the program. It has a line for each event. Events that are too frequent are counted.

For example:
``2026-11-24T09:12:07.120Z warning run_failed run=01M… flow=3 reason="status 500"``
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timezone

from fractal_rm.adapters.telemetry.line_writer import LineWriter
from fractal_rm.adapters.telemetry.outlets import LogFile, Stream

STANDARD_ERROR = 2
WINDOW_S = 10.0
LINES_PER_WINDOW = 20  # for events with the same name; further events are only counted
MAX_FIELD_LENGTH = 500

_log = logging.getLogger("fractal_rm")


def open_log(path: str | None) -> None:
    """Write the log to the file ``path``, which is rotated at 10 MiB. Raises OSError.

    If ``path`` is None, write the log to standard error.
    """
    outlet = Stream(STANDARD_ERROR) if path is None else LogFile(path)
    handler = LineWriter(outlet)
    handler.setFormatter(_LineFormatter())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)  # libraries log only errors
    _log.setLevel(logging.INFO)


def flush_log() -> None:
    """Wait up to a second until the queued lines are written. Call this before `os._exit`."""
    logging.shutdown()


class _LineFormatter(logging.Formatter):
    """Formats a record as one line. If the record has a traceback, more lines follow."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line: time, level, event and fields."""
        moment = datetime.fromtimestamp(record.created, timezone.utc)
        at = moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
        line = f"{at} {record.levelname.lower()} {record.getMessage()}"
        if record.exc_info:
            line += "\n" + self.formatException(record.exc_info)
        return line


def logfmt(name: str, fields: dict[str, object]) -> str:
    """Format an event as ``name key=value …``.

    A long value is shortened. A value with spaces is quoted.
    """
    return " ".join([name, *(f"{key}={_value(value)}" for key, value in fields.items())])


def _value(value: object) -> str:
    text = value if isinstance(value, str) else str(value)
    if len(text) > MAX_FIELD_LENGTH:
        text = text[:MAX_FIELD_LENGTH] + "…"
    # Values that come from other machines may contain line breaks or control characters.
    if not text.isprintable():
        text = ascii(text)[1:-1]
    plain = text and not any(c in text for c in ' "=')
    return text if plain else '"' + text.replace('"', '\\"') + '"'


class LogTelemetry:
    """Port `Telemetry`. Writes at most 20 lines in 10 s for an event name, and counts the rest."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._now_s = monotonic_s
        # Event name -> when its current window began, and the number of events since then.
        self._windows: dict[str, tuple[float, int]] = {}

    def event(self, name: str, **fields: object) -> None:
        """Log an event at level info."""
        self._write(logging.INFO, name, fields)

    def problem(self, name: str, **fields: object) -> None:
        """Log an event at level warning, with the traceback of the exception ``exc_info``."""
        self._write(logging.WARNING, name, fields)

    def _write(self, level: int, name: str, fields: dict[str, object]) -> None:
        now_s = self._now_s()
        began_s, count = self._windows.get(name, (now_s, 0))
        if now_s - began_s >= WINDOW_S:
            if count > LINES_PER_WINDOW:
                _log.warning("%s_left_out count=%d", name, count - LINES_PER_WINDOW)
            began_s, count = now_s, 0
        self._windows[name] = began_s, count + 1
        if count < LINES_PER_WINDOW:
            error = fields.pop("exc_info", None)
            exc_info = error if isinstance(error, BaseException) else None
            _log.log(level, "%s", logfmt(name, fields), exc_info=exc_info)
