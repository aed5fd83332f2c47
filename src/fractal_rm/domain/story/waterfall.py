"""The waterfall of a run: what it did when, as bars on one line of time.

A lane is one line of the picture: the placement, a step, an undo. Its bars are what happened there:
requests, pauses between attempts, waits. `waterfall` makes the lanes from the facts of a run.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import msgspec

from fractal_rm.domain.flow import SubFlow
from fractal_rm.domain.story.bar import Bar, gathered
from fractal_rm.domain.story.bars import Bars
from fractal_rm.domain.story.step_table import StepRow, step_rows
from fractal_rm.domain.story.steps import Steps
from fractal_rm.domain.story.values import RunToTell


class Lane(msgspec.Struct, frozen=True):
    """One line of the waterfall. ``row`` is its step in the table of steps, if it is a step.

    ``name`` is what the line shows, such as ``POST component7 1``. ``kind`` is ``place``, ``step``,
    ``undo`` or ``end``. ``text`` says in words what its bars show. ``runs`` are those that a RUN
    has started, and ``elements`` is how many elements of a FOREACH are done.
    """

    name: str
    kind: str
    number: int | None = None
    row: StepRow | None = None
    bars: Sequence[Bar] = ()
    text: str = ""
    runs: Sequence[str] = ()
    elements: int = 0


class Waterfall(msgspec.Struct, frozen=True):
    """The lanes of a run, from its acceptance to its end, or to now. Times are wall times in ms."""

    begin_ms: int
    end_ms: float
    lanes: Sequence[Lane]


def waterfall(told: RunToTell) -> Waterfall:
    """The waterfall of a run."""
    bars = Bars(told)
    for at_ms, fact in told.facts:
        bars.add(at_ms, fact)
    bars.finish()
    ends = [bar.end_ms for of_lane in bars.by_lane.values() for bar in of_lane]
    end_ms = max([told.settled_ms or told.now_ms, told.accepted_ms, *ends])
    return Waterfall(told.accepted_ms, end_ms, list(_lanes(told, bars, end_ms - told.accepted_ms)))


def _lanes(told: RunToTell, bars: Bars, span_ms: float) -> Iterator[Lane]:
    steps, children = Steps(told), _children_by_step(told)
    if bars.by_lane.get("place"):
        yield _lane("place", "place", gathered(bars.by_lane["place"], span_ms))
    for position, told_row in enumerate(step_rows(told)):
        row = told_row
        key = f"@{position}" if row.number is None else str(row.number)
        found = gathered(bars.by_lane.get(key, []), span_ms)
        if row.state == "not begun" and any(bar.is_open and bar.kind == "call" for bar in found):
            row = msgspec.structs.replace(row, state="in flight")  # no fact says that it was sent
        elements = bars.elements.get(row.number or 0)
        if elements is not None:
            found = [elements.bar(), *found]
        runs = children.get(row.number, ()) if row.number is not None else ()
        text = bars.texts.get(key, "")
        lane = _lane(row.what, "step", found, row=row, number=row.number, runs=runs, text=text)
        done = 0 if elements is None else elements.done
        yield msgspec.structs.replace(lane, elements=done)
    for key, found in bars.by_lane.items():
        if key.startswith("undo."):
            number = int(key[5:])
            request = steps.undo_request(number)
            yield _lane(request or f"step {number}", "undo", found, number=number)
    if bars.by_lane.get("end"):
        yield _lane("reply by MQTT", "end", bars.by_lane["end"])


def _lane(
    name: str, kind: str, bars: Sequence[Bar], *, row: StepRow | None = None,
    number: int | None = None, runs: Sequence[str] = (), text: str = "",
) -> Lane:  # fmt: skip
    words = "; ".join(bar.text for bar in bars)
    return Lane(name, kind, number, row, bars, text or words, runs)


def _children_by_step(told: RunToTell) -> dict[int, tuple[str, ...]]:
    """The runs that each RUN step has started. It is not always known which of several did."""
    steps = told.flow.steps if told.flow is not None else ()
    numbers: dict[str, list[int]] = {}
    for step in steps:
        if isinstance(step, SubFlow):
            numbers.setdefault(step.flow, []).append(step.number)
    by_step: dict[int, tuple[str, ...]] = {}
    for flow, of_flow in numbers.items():
        runs = [child.run for child in told.children if child.flow == flow]
        is_clear = len(runs) == len(of_flow)
        for index, number in enumerate(of_flow):
            by_step[number] = (runs[index],) if is_clear else tuple(runs)
    return by_step
