"""The log: one line for each thing that an operator may want to know, and never a flood of them."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from collections.abc import Callable

import structlog

from fractal_rm.domain.run import Run, State

LOG_FILE_BYTES = 10 * 1024 * 1024
LOG_FILES_KEPT = 3
WINDOW_S = 10.0
LINES_PER_WINDOW = 20
FIELD_LENGTH = 500


def open_log(path: str | None) -> logging.Handler:
    """Send log lines to a file that is rotated at 10 MiB, or to standard error. Raises OSError."""
    handler: logging.Handler = logging.StreamHandler(sys.stderr)
    if path is not None:
        handler = logging.handlers.RotatingFileHandler(
            path, maxBytes=LOG_FILE_BYTES, backupCount=LOG_FILES_KEPT, encoding="utf-8"
        )
    on_terminal = path is None and sys.stderr.isatty()
    renderer = (
        structlog.dev.ConsoleRenderer(sort_keys=False)
        if on_terminal
        else structlog.processors.LogfmtRenderer(bool_as_flag=False)
    )
    handler.setFormatter(logging.Formatter("%(message)s"))
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)  # of the libraries
    logging.getLogger("fractal_rm").setLevel(logging.INFO)
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso"),
            structlog.processors.format_exc_info,
            _shorten,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    return handler


def _shorten(
    _logger: object, _method: str, fields: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """Bound every field, and keep each line one line: what came from outside may hold anything."""
    for name, value in fields.items():
        if isinstance(value, str) and name != "exception":
            short = value if len(value) <= FIELD_LENGTH else value[:FIELD_LENGTH] + "…"
            fields[name] = short if short.isprintable() else repr(short)[1:-1]
    return fields


class LogTelemetry:
    """Port `Telemetry`. Of one event at most 20 lines are written in 10 s; the rest is counted."""

    def __init__(self, monotonic_s: Callable[[], float]) -> None:
        self._now_s = monotonic_s
        self._log = structlog.get_logger("fractal_rm")
        self._window: dict[str, tuple[float, int]] = {}

    def run_settled(self, run: Run, took_ms: int) -> None:
        """A run ended. Only an end that somebody should look at makes a line."""
        if run.state in (State.SUCCEEDED, State.HANDED_OFF):
            return
        self.problem(
            f"run_{run.state.value}",
            run=run.id,
            flow=run.flow.id,
            reason=run.reason,
            took_ms=took_ms,
        )

    def event(self, name: str, **fields: object) -> None:
        """Something that an operator may want to know."""
        if self._may_write(name):
            self._log.info(name, **fields)

    def problem(self, name: str, **fields: object) -> None:
        """Something that an operator should know."""
        if self._may_write(name):
            self._log.warning(name, **fields)

    def _may_write(self, name: str) -> bool:
        now_s = self._now_s()
        since_s, count = self._window.get(name, (now_s, 0))
        if now_s - since_s >= WINDOW_S:
            if count > LINES_PER_WINDOW:
                self._log.warning(f"{name}_more", left_out=count - LINES_PER_WINDOW)
            since_s, count = now_s, 0
        self._window[name] = since_s, count + 1
        return count < LINES_PER_WINDOW
