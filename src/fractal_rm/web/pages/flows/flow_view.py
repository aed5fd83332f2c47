"""What the pages show of flows: values for the templates, made from the answers of the history."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec
from markupsafe import Markup

from fractal_rm.domain.duration_counts import added
from fractal_rm.domain.node_status import ComponentStatus, FlowStatus, NodeStatus
from fractal_rm.domain.story.words import duration
from fractal_rm.engine.ports import Minute
from fractal_rm.web.pages.numbers.charts import bars, share_bar
from fractal_rm.web.pages.numbers.figures import EXECUTED, FlowFigures


class DurationRow(msgspec.Struct, frozen=True):
    """How many runs took a time between two powers of two, in milliseconds."""

    text: str
    runs: int
    share: float
    bar: Markup


def flows_now(processes: Iterable[NodeStatus]) -> dict[str, FlowStatus]:
    """What waits and is in flight of each flow, in all processes."""
    now: dict[str, FlowStatus] = {}
    for each in (flow for process in processes for flow in process.flows):
        other = now.get(each.flow)
        now[each.flow] = each if other is None else _together(each, other)
    return now


def _together(one: FlowStatus, other: FlowStatus) -> FlowStatus:
    steps = {*one.at_steps, *other.at_steps}
    return FlowStatus(
        one.flow,
        one.waiting + other.waiting,
        one.in_flight + other.in_flight,
        one.waiting_for_limit + other.waiting_for_limit,
        one.paused_by or other.paused_by,
        one.paused_ms or other.paused_ms,
        {step: one.at_steps.get(step, 0) + other.at_steps.get(step, 0) for step in steps},
    )


def components_now(processes: Iterable[NodeStatus]) -> dict[str, ComponentStatus]:
    """What each component does, in all processes. A circuit that is not closed is shown."""
    now: dict[str, ComponentStatus] = {}
    for each in (component for process in processes for component in process.components):
        other = now.get(each.component)
        if other is None:
            now[each.component] = each
            continue
        shown = each if other.circuit in (None, "closed") else other
        now[each.component] = msgspec.structs.replace(
            shown, in_flight=each.in_flight + other.in_flight, waiting=each.waiting + other.waiting
        )
    return now


def chart_of(figures: FlowFigures) -> Markup:
    """The runs of a flow in the last 24 hours: accepted, and those in trouble."""
    trouble = [bad for _, bad in figures.by_hour]
    good = [max(0, all_runs - bad) for all_runs, bad in figures.by_hour]
    accepted = sum(all_runs for all_runs, _ in figures.by_hour)
    label = f"last 24 hours: {accepted:,} runs accepted, {sum(trouble):,} in trouble"
    return bars(label, ("fail", trouble), ("accent", good))


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
