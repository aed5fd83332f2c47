"""A bar of a waterfall, and many bars as one."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import msgspec

from fractal_rm.domain.facts import ElementFinished
from fractal_rm.domain.story.words import count, duration

MAX_BARS = 48  # of one lane; more are gathered
_DRAWN_LAST = ("quiet", "ok", "wait", "away", "doubt", "fail")  # what is worse is drawn over


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

    @property
    def done(self) -> int:
        """How many they are."""
        return sum(self.statuses.values()) + self.skipped

    def bar(self) -> Bar:
        """All of them as one bar."""
        done = self.done
        text = f"{count(done, 'element')} done"
        if self.statuses:
            answers = [
                f"{number:,} with {status}" for status, number in sorted(self.statuses.items())
            ]
            text += f": {', '.join(answers)}; the slowest took {duration(self.slowest_ms)}"
        if self.skipped:
            text += f"; {self.skipped:,} skipped or failed"
        return Bar(self.begin_ms, self.end_ms, "call", "ok", f"{done:,} done", text)


def gathered(bars: Sequence[Bar], span_ms: float, most: int = MAX_BARS) -> list[Bar]:
    """The bars of a lane; of very many, those that are near each other become one.

    ``span_ms`` is the length of the whole line. Then pauses are left out, and bars of the same kind
    and tone become one if less than a hundredth of the line is between them.
    """
    if len(bars) <= most:
        return list(bars)
    kinds: dict[tuple[str, str], list[Bar]] = {}
    for bar in sorted(bars, key=lambda each: each.begin_ms):
        if bar.kind != "pause":
            kinds.setdefault((bar.kind, bar.tone), []).append(bar)
    found = [each for of_kind in kinds.values() for each in _near_as_one(of_kind, span_ms / 100)]
    return sorted(found, key=lambda bar: _DRAWN_LAST.index(bar.tone))


def _near_as_one(bars: Sequence[Bar], gap_ms: float) -> Iterator[Bar]:
    """Yield a bar for each row of bars with at most ``gap_ms`` between them."""
    near: list[Bar] = []
    end_ms = 0.0
    for bar in bars:
        if near and bar.begin_ms - end_ms > gap_ms:
            yield _as_one(near)
            near = []
        end_ms = max(end_ms, bar.end_ms) if near else bar.end_ms
        near.append(bar)
    if near:
        yield _as_one(near)


def _as_one(bars: Sequence[Bar]) -> Bar:
    if len(bars) == 1:
        return bars[0]
    begin_ms, end_ms = bars[0].begin_ms, max(bar.end_ms for bar in bars)
    text = f"{count(len(bars), 'request')}; the last: {bars[-1].text}"
    is_open = any(bar.is_open for bar in bars)
    return Bar(begin_ms, end_ms, bars[0].kind, bars[0].tone, "", text, is_open)
