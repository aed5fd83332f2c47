"""A moment that outlives the process: the clock since boot, and the wall clock beside it."""

from __future__ import annotations

import msgspec


class Moment(msgspec.Struct, frozen=True, omit_defaults=True):
    """``boot_ms`` counts milliseconds since the machine's boot named ``boot``, asleep or not.

    ``wall_ms`` is the wall clock, milliseconds since 1970, UTC, and ``ahead_ms`` how far the steady
    clock is ahead of it (`domain.steady`): what a reboot leaves.
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
        """The moment so many milliseconds later."""
        later_ms = round(ms)
        return msgspec.structs.replace(
            self, boot_ms=self.boot_ms + later_ms, wall_ms=self.wall_ms + later_ms
        )


def past_ms(end: Moment, now: Moment) -> int:
    """How long ``end`` is past; less than none where it is still to come. The clocks: `left_ms`."""
    if end.boot == now.boot:
        return now.boot_ms - end.boot_ms
    return now.steady_ms - end.steady_ms


def left_ms(end: Moment, now: Moment, most_ms: float) -> float:
    """How long it is until ``end``: never negative, and never more than it was to be at first.

    The clock since boot does not jump. Where the machine has been booted since, the steady clock is
    asked, to which the wall clock has said how long that took.
    """
    return min(max(0, -past_ms(end, now)), most_ms)
