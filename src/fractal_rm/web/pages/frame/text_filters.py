"""Times, durations and numbers as people read them. Templates use these functions as filters."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timezone
from enum import Enum
from typing import Any

from fractal_rm.domain.placement import DULL_REASONS
from fractal_rm.domain.state import State
from fractal_rm.domain.story.words import cut, duration, size
from fractal_rm.engine.ports import RunSummary

_DAY_MS = 86_400_000


class Zone(str, Enum):
    """The time zone of all times on a page: UTC, or that of this node."""

    UTC = "utc"
    NODE = "node"

    __hash__ = str.__hash__

    @classmethod
    def of(cls, text: str) -> Zone:
        """The zone of a setting; UTC if it is not one."""
        return cls.NODE if text == cls.NODE.value else cls.UTC

    @property
    def label(self) -> str:
        """The name of the zone for people."""
        return "UTC" if self is Zone.UTC else "node time"

    @property
    def other(self) -> str:
        """The setting of the other zone."""
        return "node" if self is Zone.UTC else "utc"

    @property
    def other_label(self) -> str:
        """The name of the other zone for people."""
        return Zone.of(self.other).label

    def moment(self, at_ms: int) -> datetime | None:
        """A wall time in this zone; None if it is out of range."""
        try:
            moment = datetime.fromtimestamp(at_ms / 1000, timezone.utc)
            return moment if self is Zone.UTC else moment.astimezone()
        except (OverflowError, ValueError, OSError):
            return None

    def full(self, at_ms: int) -> str:
        """Day and time: ``2026-11-29 14:02:11.348``."""
        return self._text(at_ms, "%Y-%m-%d %H:%M:%S") + f".{at_ms % 1000:03d}"

    def clock(self, at_ms: int) -> str:
        """The time of day: ``14:02:11``."""
        return self._text(at_ms, "%H:%M:%S")

    def minute(self, at_ms: int, now_ms: int) -> str:
        """The same without seconds: ``14:02``, ``Nov 28 14:02``."""
        text = self.short(at_ms, now_ms)
        return text[:5] if text[2:3] == ":" else text

    def short(self, at_ms: int, now_ms: int) -> str:
        """The time of day, with the day if it is not today: ``14:02:11``, ``Nov 28 14:02``."""
        moment, now = self.moment(at_ms), self.moment(now_ms)
        if moment is None or now is None:
            return f"{at_ms} ms"
        if moment.date() == now.date():
            return moment.strftime("%H:%M:%S")
        return moment.strftime("%b %d %H:%M" if moment.year == now.year else "%Y-%m-%d")

    def _text(self, at_ms: int, form: str) -> str:
        moment = self.moment(at_ms)
        return f"{at_ms} ms" if moment is None else moment.strftime(form)


def number(value: float) -> str:
    """A number with its digits in groups of three: ``3,412``, ``0.3``."""
    if isinstance(value, int) or value >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}".removesuffix(".0")


def rate(per_s: float) -> str:
    """A rate in the unit in which it is easy to read: ``412/s``, ``0.3/s``, ``4.5/min``, ``0``."""
    if per_s <= 0:
        return "0"
    if per_s >= 0.1:
        return f"{number(round(per_s, 1) if per_s < 100 else round(per_s))}/s"
    per_min = 60 * per_s
    return f"{number(round(per_min, 1))}/min" if per_min >= 0.1 else f"{number(60 * per_min)}/h"


def about(ms: float | None) -> str:
    """An estimated duration: with two digits. ``-`` if there is none."""
    return "-" if ms is None else duration(float(f"{ms:.2g}"))


def percent(share: float) -> str:
    """A share from 0 to 1: ``3.2 %``, ``under 0.1 %``, ``0 %``."""
    if 0 < share < 0.001:
        return "under 0.1 %"
    return f"{number(round(100 * share, 1) if share < 0.1 else round(100 * share))} %"


def of_runs(count: int) -> str:
    """A number of runs: ``1 run``, ``3,412 runs``."""
    return f"{count:,} run{'' if count == 1 else 's'}"


# The sign of each state. Its class in the style sheet gives the colour, and its text the word.
_SIGNS = {
    State.NEW: "·", State.ACCEPTED: "◌", State.RUNNING: "▶", State.OFFERED: "⇢", State.PARKED: "‖",
    State.SUCCEEDED: "✓", State.FAILED: "✗", State.UNKNOWN: "?", State.HANDED_OFF: "→",
    State.DEAD: "✗", State.CANCELLED: "⊘", State.EXPIRED: "⧖", State.SUPERSEDED: "↷",
}  # fmt: skip
_TONES = {
    State.NEW: "wait", State.ACCEPTED: "wait", State.RUNNING: "wait", State.PARKED: "doubt",
    State.OFFERED: "away", State.HANDED_OFF: "away", State.SUCCEEDED: "ok", State.FAILED: "fail",
    State.DEAD: "fail", State.EXPIRED: "fail", State.UNKNOWN: "doubt", State.CANCELLED: "quiet",
    State.SUPERSEDED: "quiet",
}  # fmt: skip


def sign(state: State) -> str:
    """The sign of a state."""
    return _SIGNS[state]


def tone(state: State) -> str:
    """The tone of a state: ``ok``, ``fail``, ``wait``, ``doubt``, ``away`` or ``quiet``."""
    return _TONES[state]


# The states of a step (`StepRow`).
_STEPS = {
    "not begun": ("·", "quiet"), "in flight": ("▶", "wait"), "waiting": ("◌", "wait"),
    "to be retried": ("↻", "wait"), "done": ("✓", "ok"), "skipped": ("↷", "quiet"),
    "failed": ("✗", "fail"), "unknown": ("?", "doubt"), "undone": ("↶", "quiet"),
    "not finished": ("⊘", "quiet"),
}  # fmt: skip


def step_sign(state: str) -> str:
    """The sign of the state of a step."""
    return _STEPS[state][0]


def step_tone(state: str) -> str:
    """The tone of the state of a step, as `tone`."""
    return _STEPS[state][1]


def why_listed(run: RunSummary) -> str:
    """The reason of a run for a list: empty if it says only that all is as it should be."""
    is_dull = run.state is State.SUCCEEDED and run.reason in DULL_REASONS
    return "" if is_dull else run.reason


def short_id(run_id: str) -> str:
    """The end of a run id, which differs between runs; its beginning is the time."""
    return "…" + run_id[-8:]


FILTERS: dict[str, Callable[..., Any]] = {
    "about": about,
    "cut": cut,
    "duration": duration,
    "short_id": short_id,
    "size": size,
    "number": number,
    "percent": percent,
    "rate": rate,
    "of_runs": of_runs,
    "sign": sign,
    "tone": tone,
    "step_sign": step_sign,
    "why_listed": why_listed,
    "step_tone": step_tone,
}
