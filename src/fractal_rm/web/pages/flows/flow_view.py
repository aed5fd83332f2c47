"""What the pages show of flows: values for the templates, made from the answers of the history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from markupsafe import Markup

from fractal_rm.domain.duration_counts import added
from fractal_rm.domain.story.words import duration
from fractal_rm.engine.ports import Minute
from fractal_rm.web.pages.numbers.charts import share_bar
from fractal_rm.web.pages.numbers.figures import EXECUTED


class DurationRow(msgspec.Struct, frozen=True):
    """How many runs took a time between two powers of two, in milliseconds."""

    text: str
    runs: int
    share: float
    bar: Markup


def duration_rows(counts: Iterable[Minute]) -> list[DurationRow]:
    """How the durations of runs are distributed: a row for each power of two that occurs."""
    numbers: Sequence[int] = added(each.durations for each in counts if each.state in EXECUTED)
    used = [bits for bits, number in enumerate(numbers) if number]
    if not used:
        return []
    total, most = sum(numbers), max(numbers)
    return [
        DurationRow(
            _between(bits),
            numbers[bits],
            numbers[bits] / total,
            share_bar(f"{numbers[bits]:,} of {total:,} runs", "accent", numbers[bits] / most),
        )
        for bits in range(used[0], used[-1] + 1)
    ]


def _between(bits: int) -> str:
    if bits == 0:
        return "under 1 ms"
    return f"{duration(2 ** (bits - 1))} to {duration(2**bits)}"
