"""The ports for time, randomness and the log."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.domain.moment import Moment
from fractal_rm.domain.steady import ClockChange, ClockReading


class Clock(Protocol):
    """Clocks of the machine. They only tell the time: to wait, use `engine.timers` or asyncio."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since 1970, UTC. It may jump: never measure durations by it."""
        ...

    def monotonic_s(self) -> float:
        """The event loop's clock in seconds. It stops while the machine is suspended."""
        ...

    def steady_ms(self) -> int:
        """Steady clock in milliseconds. It also runs during a suspend, and cannot be set."""
        ...

    def read(self) -> ClockReading:
        """The time on every clock. Only `detect_changes` notices that the wall clock was set."""
        ...

    def detect_changes(self) -> ClockChange:
        """Return how far the wall clock was set, and the time in suspend, since the last call."""
        ...

    def continue_after(self, latest_ms: int | None) -> None:
        """Set the steady clock to at least the latest time of a journal (`Recovered.latest_ms`)."""
        ...

    async def save(self) -> None:
        """Save the steady clock, so that it continues in the next process. Never raises."""
        ...

    def moment(self) -> Moment:
        """The current time, in a form that can be compared after a crash or a reboot."""
        ...


class Random(Protocol):
    """A source of random values."""

    def fraction(self) -> float:
        """A random number from 0 up to, but not including, 1."""
        ...

    def token(self, size: int) -> bytes:
        """``size`` random bytes."""
        ...


class Telemetry(Protocol):
    """Logs events. Its methods never raise and never block."""

    def event(self, name: str, **fields: object) -> None:
        """Log an event that needs no action."""
        ...

    def detail(self, name: str, **fields: object) -> None:
        """Log an event for somebody who searches a fault. It is written only at level debug."""
        ...

    def problem(self, name: str, **fields: object) -> None:
        """Log an event that an operator should see. ``exc_info`` may be an exception."""
        ...
