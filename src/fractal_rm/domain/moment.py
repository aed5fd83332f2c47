"""A moment that can be stored: the time on the clock since boot and on the wall clock."""

from __future__ import annotations

import msgspec


class Moment(msgspec.Struct, frozen=True, omit_defaults=True):
    """``boot_ms``: milliseconds since the boot with the id ``boot``, with time in suspend.

    ``wall_ms``: the wall clock, milliseconds since 1970, UTC. ``ahead_ms``: how far the steady
    clock is ahead of it (`domain.steady`). Only these two can be compared after a reboot.
    """

    boot: str
    boot_ms: int
    wall_ms: int
    ahead_ms: int = 0

    @property
    def steady_ms(self) -> int:
        """The steady clock."""
        return self.wall_ms + self.ahead_ms

    def after(self, ms: float) -> Moment:
        """The moment ``ms`` milliseconds later."""
        later_ms = round(ms)
        return msgspec.structs.replace(
            self, boot_ms=self.boot_ms + later_ms, wall_ms=self.wall_ms + later_ms
        )


def past_ms(end: Moment, now: Moment) -> int:
    """How long ago ``end`` was; negative if it is in the future. For the clocks see `left_ms`."""
    if end.boot == now.boot:
        return now.boot_ms - end.boot_ms
    return now.steady_ms - end.steady_ms


def left_ms(end: Moment, now: Moment, max_ms: float) -> float:
    """The time until ``end``: from 0 to ``max_ms``, which is the full time of the wait.

    On the same boot, the clock since boot measures it. After a reboot the steady clock does: it has
    taken from the wall clock how long the reboot took.
    """
    return min(max(0, -past_ms(end, now)), max_ms)
