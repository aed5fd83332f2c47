"""A bar of a waterfall, and many bars as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec

from fractal_rm.domain.facts import ElementFinished
from fractal_rm.domain.story.words import count, duration

MAX_BARS = 48  # of one lane; more are gathered
_WORST = ("fail", "doubt", "away", "wait", "ok", "quiet")


class Bar(msgspec.Struct, frozen=True):
    """Something that took time. Wall times in milliseconds since 1970; ``end_ms`` is not before.

    ``kind`` is ``queue`` (waits for its turn), ``call``, ``pause`` (before the next attempt),
    ``wait`` (WAIT), ``offer``, ``parked`` or ``reply``. ``tone`` is ``ok``, ``fail``, ``doubt``,
    ``away``, ``wait`` or ``quiet``. ``label`` is one word, such as the status; ``text`` says all.
    ``is_open``: it goes on.
    """

    begin_ms: float
    end_ms: float
    kind: str
    tone: str
    label: str
    text: str
    is_open: bool = False

    @property
    def took_ms(self) -> float:
        """How long it took, in milliseconds."""
        return self.end_ms - self.begin_ms


class Elements:
    """The elements of a FOREACH that are done."""

    def __init__(self) -> None:
        self.begin_ms = float("inf")
        self.end_ms = 0.0
        self.skipped = 0
        self.slowest_ms = 0.0
        self.statuses: Counter[int] = Counter()

    def add(self, at_ms: int, fact: ElementFinished) -> None:
        """Add one element."""
        self.begin_ms = min(self.begin_ms, at_ms - fact.took_ms)
        self.end_ms = max(self.end_ms, at_ms)
        self.slowest_ms = max(self.slowest_ms, fact.took_ms)
        if fact.status:
            self.statuses[fact.status] += 1
        else:
            self.skipped += 1

    def bar(self) -> Bar:
        """All of them as one bar."""
        done = sum(self.statuses.values()) + self.skipped
        text = f"{count(done, 'element')} done"
        if self.statuses:
            answers = [
                f"{number:,} with {status}" for status, number in sorted(self.statuses.items())
            ]
            text += f": {', '.join(answers)}; the slowest took {duration(self.slowest_ms)}"
        if self.skipped:
            text += f"; {self.skipped:,} skipped or failed"
        return Bar(self.begin_ms, self.end_ms, "call", "ok", f"{done:,}", text)


def gathered(bars: Sequence[Bar], most: int = MAX_BARS) -> list[Bar]:
    """At most ``most`` bars: of more, neighbours become one bar with the worst tone of them."""
    if len(bars) <= most:
        return list(bars)
    each = -(-len(bars) // most)
    return [_as_one(bars[start : start + each]) for start in range(0, len(bars), each)]


def _as_one(bars: Sequence[Bar]) -> Bar:
    worst = min(bars, key=lambda bar: _WORST.index(bar.tone))
    text = f"{count(len(bars), 'event')}; the worst: {worst.text}"
    begin_ms, end_ms = min(bar.begin_ms for bar in bars), max(bar.end_ms for bar in bars)
    return Bar(begin_ms, end_ms, worst.kind, worst.tone, "", text, bars[-1].is_open)
