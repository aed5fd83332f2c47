"""A moment that outlives the process: the clock since boot, and the wall clock beside it."""

from __future__ import annotations

import msgspec


class Moment(msgspec.Struct, frozen=True):
    """``boot_ms`` counts milliseconds since the machine's boot named ``boot``, asleep or not.

    ``wall_ms`` is the wall clock, milliseconds since 1970, UTC: all that a reboot leaves.
    """

    boot: str
    boot_ms: int
    wall_ms: int

    def after(self, ms: float) -> Moment:
        """The moment so many milliseconds later."""
        return Moment(self.boot, self.boot_ms + round(ms), self.wall_ms + round(ms))


def past_ms(end: Moment, now: Moment) -> int:
    """How long ``end`` is past; less than none where it is still to come. The clocks: `left_ms`."""
    return now.boot_ms - end.boot_ms if end.boot == now.boot else now.wall_ms - end.wall_ms


def left_ms(end: Moment, now: Moment, most_ms: float) -> float:
    """How long it is until ``end``: never negative, and never more than it was to be at first.

    The clock since boot does not jump. Where the machine has been booted since, the wall clock is
    asked, right or wrong.
    """
    return min(max(0, -past_ms(end, now)), most_ms)
