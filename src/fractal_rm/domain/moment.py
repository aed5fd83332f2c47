"""A moment that can be stored, with its time on several clocks."""

from __future__ import annotations

import msgspec


class Moment(msgspec.Struct, frozen=True, omit_defaults=True):
    """A moment on three clocks: the clock since boot, the wall clock and the steady clock.

    ``boot_ms``: milliseconds since the boot with the id ``boot``, including the time in suspend. It
    can be compared only with moments of the same boot. ``wall_ms``: the wall clock, in milliseconds
    since 1970, UTC. ``ahead_ms``: how far the steady clock (`domain.steady`) is ahead of the wall
    clock.
    """

    boot: str
    boot_ms: int
    wall_ms: int
    ahead_ms: int = 0

    @property
    def steady_ms(self) -> int:
        """The time on the steady clock."""
        return self.wall_ms + self.ahead_ms

    def after(self, ms: float) -> Moment:
        """The moment ``ms`` milliseconds later."""
        later_ms = round(ms)
        return msgspec.structs.replace(
            self, boot_ms=self.boot_ms + later_ms, wall_ms=self.wall_ms + later_ms
        )


def past_ms(end: Moment, now: Moment) -> int:
    """Milliseconds from ``end`` until ``now``; negative if ``now`` is before ``end``.

    The clock since boot is used if both moments are of the same boot. After a reboot, the steady
    clock is used, which includes the time of the reboot as the wall clock shows it.
    """
    if end.boot == now.boot:
        return now.boot_ms - end.boot_ms
    return now.steady_ms - end.steady_ms


def left_ms(end: Moment, now: Moment, max_ms: float) -> float:
    """Milliseconds from ``now`` until ``end``: at least 0, and at most the length of the wait.

    ``max_ms`` is the length of the wait. The clocks are those of `past_ms`.
    """
    return min(max(0, -past_ms(end, now)), max_ms)
