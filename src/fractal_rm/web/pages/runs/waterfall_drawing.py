"""Turns the waterfall of a run into positions on a line, in percent, and into words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import msgspec

from fractal_rm.domain.story import Bar, Lane, Waterfall
from fractal_rm.domain.story.words import cut, duration

MIN_WIDTH = 0.35  # percent, so that the shortest bar is seen
CHAR_WIDTH = 1.1  # percent that one character of a label takes, at most, where the line is narrow
MAX_WORDS = 600  # characters of the words of a lane


class Mark(msgspec.Struct, frozen=True):
    """A mark of the axis. ``at`` is in percent."""

    at: float
    text: str


class DrawnBar(msgspec.Struct, frozen=True):
    """A bar. ``x``, ``width`` and ``label_x`` are in percent.

    ``label`` is empty if there is no room for it. ``place`` says where it is: ``beside`` the bar,
    ``within`` it or ``above`` it (there ``label_x`` is its middle).
    """

    x: float
    width: float
    kind: str
    tone: str
    label: str
    label_x: float
    place: str
    text: str


class DrawnLane(msgspec.Struct, frozen=True):
    """A lane, with its bars."""

    lane: Lane
    bars: Sequence[DrawnBar]
    words: str


class DrawnWaterfall(msgspec.Struct, frozen=True):
    """A waterfall, with its axis."""

    lanes: Sequence[DrawnLane]
    marks: Sequence[Mark]
    took_ms: float


def draw(waterfall: Waterfall) -> DrawnWaterfall:
    """The positions of everything on the line."""
    took_ms = max(waterfall.end_ms - waterfall.begin_ms, 1.0)
    lanes = [_lane(lane, waterfall.begin_ms, took_ms) for lane in waterfall.lanes]
    return DrawnWaterfall(lanes, _marks(took_ms), took_ms)


def _lane(lane: Lane, begin_ms: float, took_ms: float) -> DrawnLane:
    drawn = [_bar(bar, begin_ms, took_ms) for bar in lane.bars]
    labelled = [_with_label(bar, after.x) for bar, after in pairwise([*drawn, _END])]
    return DrawnLane(lane, labelled, cut(lane.text, MAX_WORDS))


def _bar(bar: Bar, begin_ms: float, took_ms: float) -> DrawnBar:
    x = min(max(0.0, 100 * (bar.begin_ms - begin_ms) / took_ms), 100 - MIN_WIDTH)
    width = min(max(100 * bar.took_ms / took_ms, MIN_WIDTH), 100 - x)
    text = bar.text if bar.is_open else f"{bar.text} ({duration(bar.took_ms)})"
    return DrawnBar(round(x, 2), round(width, 2), bar.kind, bar.tone, bar.label[:16], 0.0, "", text)


_END = DrawnBar(100.0, 0.0, "", "", "", 100.0, "", "")


def _with_label(bar: DrawnBar, next_x: float) -> DrawnBar:
    """A bar with its label beside it, within it, or without its label if there is no room."""
    needed, end = CHAR_WIDTH * len(bar.label) + 1, bar.x + bar.width
    place, label_x = "", 0.0
    if bar.kind in ("pause", "wait"):
        if needed <= bar.width:
            place, label_x = "above", bar.x + bar.width / 2
    elif needed <= next_x - end:
        place, label_x = "beside", end + 0.5
    elif needed <= bar.width and next_x >= end:
        place, label_x = "within", bar.x + bar.width / 2
    label = bar.label if place else ""
    return msgspec.structs.replace(bar, label=label, label_x=round(label_x, 2), place=place)


def _marks(took_ms: float) -> list[Mark]:
    """Round times on the axis: about five."""
    step_ms = _round_step(took_ms / 5)
    return [
        Mark(round(100 * at * step_ms / took_ms, 2), duration(at * step_ms) if at else "0")
        for at in range(int(took_ms / step_ms) + 1)
        if 100 * at * step_ms / took_ms <= 93
    ]


def _round_step(ms: float) -> float:
    """A round time that is not less: 1, 2 or 5 of a power of ten; then minutes, hours and days."""
    for unit_ms, numbers in _UNITS:
        for number in numbers:
            if unit_ms * number >= ms:
                return unit_ms * number
    return 86_400_000.0 * max(1, round(ms / 86_400_000))


_UNITS: tuple[tuple[float, Sequence[int]], ...] = (
    (0.1, (1, 2, 5)), (1, (1, 2, 5)), (10, (1, 2, 5)), (100, (1, 2, 5)),
    (1_000, (1, 2, 5, 10, 20, 30)),
    (60_000, (1, 2, 5, 10, 20, 30)), (3_600_000, (1, 2, 6, 12)), (86_400_000, (1, 2, 5, 10)),
)  # fmt: skip
