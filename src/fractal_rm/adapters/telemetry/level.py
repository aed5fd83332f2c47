"""The level of the log, which can be changed while the node runs."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.adapters.telemetry.log import set_level
from fractal_rm.adapters.telemetry.run_log import RunDetails
from fractal_rm.domain.log_level import DEBUG, check_level
from fractal_rm.engine.observers import Observers
from fractal_rm.engine.ports import Telemetry


class LogLevel:
    """Sets the level. At level debug, each fact of each run is logged, too.

    ``configured`` returns the level in comm.conf. It applies until `set` or `toggle` is called, and
    again after a restart, or when comm.conf is changed.
    """

    def __init__(
        self, telemetry: Telemetry, observers: Observers, configured: Callable[[], str]
    ) -> None:
        self._telemetry = telemetry
        self._observers = observers
        self._configured = configured
        self._details: RunDetails | None = None
        self._last_configured = ""
        self.current = ""

    def set(self, level: str) -> str:
        """Set the level, and return it. Raises UnknownLogLevel."""
        check_level(level)
        if level == self.current:
            return level
        previous, self.current = self.current, level
        if previous:  # this line must not get lost: write it while info lines are written
            set_level(DEBUG)
            self._telemetry.event("log_level_changed", level=level, before=previous)
        set_level(level)
        if level == DEBUG:
            self._details = RunDetails(self._telemetry)
            self._observers.add(self._details)
        elif self._details is not None:
            self._observers.remove(self._details)
            self._details = None
        return level

    def apply_configured(self) -> None:
        """Set the level of comm.conf, if it is not the one that was set by the last call."""
        configured = self._configured()
        if configured != self._last_configured:
            self._last_configured = configured
            self.set(configured)

    def toggle(self) -> None:
        """Set the level debug. If it is set already, set the level of comm.conf."""
        configured = self._configured()
        self.set(DEBUG if self.current != DEBUG else configured)
