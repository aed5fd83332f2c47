"""How much longer runs in line are worth beginning."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.engine.alarms import Alarm, Alarms


class Patience:
    """Keeps the moment at which each run becomes stale, and tells of it without being asked."""

    def __init__(self, alarms: Alarms) -> None:
        self._alarms = alarms
        self._watched: dict[str, Alarm] = {}

    def watch(self, run_id: str, left_ms: int, stale: Callable[[], None]) -> None:
        """Call ``stale`` once after ``left_ms``, unless the run is let off before."""

        def ring() -> None:
            del self._watched[run_id]
            stale()

        self._watched[run_id] = self._alarms.set(left_ms, ring)

    def let_off(self, run_id: str) -> bool:
        """Watch it no longer. Returns whether its time was over."""
        alarm = self._watched.pop(run_id, None)
        if alarm is None:
            return False
        alarm.cancel()
        return alarm.at_ms <= self._alarms.now_ms()

    def close(self) -> None:
        """Tell of nothing any more."""
        for alarm in self._watched.values():
            alarm.cancel()
        self._watched.clear()
