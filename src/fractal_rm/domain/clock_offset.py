"""How far the clock of another machine is ahead of the clock of this machine."""

from __future__ import annotations

import msgspec


class ClockOffset(msgspec.Struct, frozen=True):
    """How far the clock of another machine is ahead of the clock here, in milliseconds.

    The true offset differs from ``ms`` by at most ``uncertain_ms``.
    """

    ms: float
    uncertain_ms: float


def clock_offset(time_ms: int, asked_ms: int, round_trip_ms: float) -> ClockOffset:
    """The offset of a clock that showed ``time_ms`` during a question and its answer.

    The question was sent at ``asked_ms`` on the clock of this machine, and the answer arrived
    ``round_trip_ms`` later. The clock was read at some moment between, so the middle is assumed.
    """
    half_ms = round_trip_ms / 2
    # Both clocks are read in whole milliseconds, so each value may be half a millisecond off.
    return ClockOffset(time_ms - asked_ms - half_ms, half_ms + 1)


_UNITS = ((3_600_000, "h"), (60_000, "min"), (1_000, "s"))  # in milliseconds


def offset_text(offset: ClockOffset) -> str:
    """An offset for people, such as ``+1 h`` or ``-0.3 s``. It shows no digit that is not known."""
    step_ms = 1
    while step_ms < offset.uncertain_ms:
        step_ms *= 10
    rounded_ms = round(offset.ms / step_ms) * step_ms
    unit_ms, unit = next((each for each in _UNITS if abs(rounded_ms) >= each[0]), _UNITS[-1])
    # Two digits after the point are enough for people; a second has as many as are known.
    decimals = max(0, 3 - len(str(step_ms)) + 1) if unit == "s" else 1
    number = f"{abs(rounded_ms) / unit_ms:.{decimals}f}"
    if unit != "s":
        number = number.removesuffix(".0")
    sign = "" if rounded_ms == 0 else "+" if rounded_ms > 0 else "-"
    return f"{sign}{number} {unit}"
