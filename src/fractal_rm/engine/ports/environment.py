"""The ports for time, randomness and the log."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.domain.moment import Moment
from fractal_rm.domain.steady import ClockChange, ClockReading


class Clock(Protocol):
    """Time. To wait, use asyncio: then a virtual event loop can control both."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since 1970, UTC. It may jump, so do not measure with it."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some moment, like the event loop: time in suspend does not count."""
        ...

    def steady_ms(self) -> int:
        """Steady clock: milliseconds, not affected by setting the wall clock; runs in suspend."""
        ...

    def read(self) -> ClockReading:
        """The current time on every clock; the wall clock as set at the last `look`."""
        ...

    def detect_changes(self) -> ClockChange:
        """Return whether the wall clock was set, or the machine suspended, since the last call."""
        ...

    def continue_after(self, latest_ms: int | None) -> None:
        """Continue after the latest moment in a journal; see `Recovered.latest_ms`."""
        ...

    async def save(self) -> None:
        """Save the steady clock for the next process and the next reboot. Never raises."""
        ...

    def moment(self) -> Moment:
        """Now, in a form that can be stored and compared after a crash or a reboot."""
        ...


class Random(Protocol):
    """Randomness."""

    def fraction(self) -> float:
        """From 0 up to, not including, 1."""
        ...

    def token(self, size: int) -> bytes:
        """``size`` random bytes."""
        ...


class Telemetry(Protocol):
    """Events for the log. Never raises, never blocks."""

    def event(self, name: str, **fields: object) -> None:
        """An event that an operator may want to know about."""
        ...

    def problem(self, name: str, **fields: object) -> None:
        """An event that an operator should know about; the field ``exc_info`` may have an error."""
        ...
