"""The log of the program. It has a line for each event. Events that are too frequent are counted.

For example:
``2026-11-24T09:12:07.120Z warning run_failed run=01M… flow=3 reason="status 500"``
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from fractal_rm.adapters.telemetry.formats import HumanFormat, JsonFormat
from fractal_rm.adapters.telemetry.line_writer import LineWriter
from fractal_rm.adapters.telemetry.outlets import LogFile, Stream
from fractal_rm.domain.log_level import DEBUG, INFO, WARNING

STANDARD_ERROR = 2
WINDOW_S = 10.0
LINES_PER_WINDOW = 20  # for events with the same name; further events are only counted
_LEVELS = {DEBUG: logging.DEBUG, INFO: logging.INFO, WARNING: logging.WARNING}

_log = logging.getLogger("fractal_rm")


def open_log(path: str | None, log_format: str = "human", level: str = INFO) -> None:
    """Write the log to the file ``path``, which is rotated at 10 MiB. Raises OSError.

    If ``path`` is None, write the log to standard error. ``log_format`` is ``human`` or ``json``.
    """
    outlet = Stream(STANDARD_ERROR) if path is None else LogFile(path)
    handler = LineWriter(outlet)
    handler.setFormatter(JsonFormat() if log_format == "json" else HumanFormat())
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.ERROR)  # libraries log only errors
    set_level(level)


def set_level(level: str) -> None:
    """Log events of this level and above. ``level`` is in `LOG_LEVELS`."""
    _log.setLevel(_LEVELS[level])


def flush_log() -> None:
    """Wait up to a second until the queued lines are written. Call this before `os._exit`."""
    logging.shutdown()


class LogTelemetry:
    """Port `Telemetry`. Writes at most 20 lines in 10 s for an event name, and counts the rest.

    ``trace_of`` returns the trace id of an open run, or None: events with a field ``run`` get it.
    """

    def __init__(
        self,
        monotonic_s: Callable[[], float],
        trace_of: Callable[[str], str | None] = lambda _: None,
    ) -> None:
        self._now_s = monotonic_s
        self._trace_of = trace_of
        # Event name -> when its current window began, and the number of events since then.
        self._windows: dict[str, tuple[float, int]] = {}

    def event(self, name: str, **fields: object) -> None:
        """Log an event at level info."""
        self._write(logging.INFO, name, fields)

    def problem(self, name: str, **fields: object) -> None:
        """Log an event at level warning, with the traceback of the exception ``exc_info``."""
        self._write(logging.WARNING, name, fields)

    def detail(self, name: str, **fields: object) -> None:
        """Log an event at level debug. There is no limit: somebody has asked for all of them."""
        self._log(logging.DEBUG, name, fields)

    def _write(self, level: int, name: str, fields: dict[str, object]) -> None:
        now_s = self._now_s()
        began_s, count = self._windows.get(name, (now_s, 0))
        if now_s - began_s >= WINDOW_S:
            if count > LINES_PER_WINDOW:
                left_out: dict[str, object] = {"count": count - LINES_PER_WINDOW}
                self._log(logging.WARNING, f"{name}_left_out", left_out)
            began_s, count = now_s, 0
        self._windows[name] = began_s, count + 1
        if count < LINES_PER_WINDOW:
            self._log(level, name, fields)

    def _log(self, level: int, name: str, fields: dict[str, object]) -> None:
        error = fields.pop("exc_info", None)
        exc_info = error if isinstance(error, BaseException) else None
        run = fields.get("run")
        if isinstance(run, str):
            trace = self._trace_of(run)
            if trace is not None:
                fields = {"run": run, "trace": trace, **fields}
        _log.log(level, "%s", name, exc_info=exc_info, extra={"fields": fields})
