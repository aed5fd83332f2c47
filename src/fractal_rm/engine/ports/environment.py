"""Time, randomness, and where events are told."""

from __future__ import annotations

from typing import Protocol

from fractal_rm.domain.moment import Moment
from fractal_rm.domain.steady import Look, Reading


class Clock(Protocol):
    """Time. Waiting is asyncio's, so that a virtual loop can move both."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since 1970, UTC. May jump: nothing is measured by it."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some moment, as the event loop counts them: those awake."""
        ...

    def steady_ms(self) -> int:
        """Milliseconds on the clock that nobody sets, and that goes on in suspend."""
        ...

    def read(self) -> Reading:
        """Now on each clock; the wall clock as it was found by the last `look`."""
        ...

    def look(self) -> Look:
        """Follow what was done to the clocks since the last look."""
        ...

    def go_on_after(self, latest_ms: int | None) -> None:
        """Be the clock of a journal with this as its latest moment; see `Recovered.latest_ms`."""
        ...

    async def keep(self) -> None:
        """Let the steady clock outlive this process and the next reboot. Never raises."""
        ...

    def moment(self) -> Moment:
        """Now, as it can be written down and compared after a crash or a reboot."""
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
    """What happened, for logs and later metrics. Never raises, never blocks."""

    def event(self, name: str, **fields: object) -> None:
        """Something that an operator may want to know."""
        ...

    def problem(self, name: str, **fields: object) -> None:
        """Something that an operator should know."""
        ...
