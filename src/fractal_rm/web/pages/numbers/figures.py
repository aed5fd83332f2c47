"""The figures of the overview, made from counts by minute and hour."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import msgspec

from fractal_rm.domain.duration_counts import added, quantile_ms
from fractal_rm.domain.health import NOW_MINUTES, Trouble
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import Minute
from fractal_rm.web.pages.numbers.recent import HOUR_MS, MINUTE_MS, Series

# The durations of these runs say how fast flows are. Others ended because of something else.
EXECUTED = frozenset({State.SUCCEEDED, State.FAILED, State.UNKNOWN})


class Latency(msgspec.Struct, frozen=True):
    """How long runs took from acceptance to the end, in milliseconds. None: no run ended."""

    p50_ms: float | None = None
    p99_ms: float | None = None


class FlowFigures(msgspec.Struct, frozen=True):
    """One flow: runs that were accepted, and that got in trouble, in the last hour.

    ``by_hour`` has both for each of the last 24 hours.
    """

    flow: str
    accepted: int
    trouble: int
    latency: Latency
    by_hour: list[tuple[int, int]]


def is_accepted(minute: Minute) -> bool:
    """Whether this counts accepted runs."""
    return minute.state is State.ACCEPTED


def is_trouble(minute: Minute) -> bool:
    """Whether this counts runs of a flow that ended in trouble. Dead letters are not runs."""
    return minute.state in TROUBLE_STATES and minute.flow is not None


def steps_of(
    series: Series, counts: Iterable[Minute], wanted: Callable[[Minute], bool]
) -> list[int]:
    """The number of runs in each step of a series."""
    numbers = [0] * series.steps
    for each in counts:
        at = (each.at_ms - series.begin_ms) // series.step_ms
        if 0 <= at < series.steps and wanted(each):
            numbers[at] += each.runs
    return numbers


def per_second_now(numbers: Sequence[int], begin_ms: int, now_ms: int) -> float:
    """The rate in the last full minute and the current one. ``numbers`` are those of minutes."""
    last_begins_ms = begin_ms + (len(numbers) - 1) * MINUTE_MS
    current_ms = min(max(now_ms - last_begins_ms, 0), MINUTE_MS)
    return 1000 * sum(numbers[-2:]) / (MINUTE_MS + current_ms)


def latency_of(counts: Iterable[Minute], since_ms: int = 0) -> Latency:
    """How long the runs took that ended from ``since_ms`` on."""
    durations = added(
        each.durations for each in counts if each.at_ms >= since_ms and each.state in EXECUTED
    )
    return Latency(quantile_ms(durations, 0.5), quantile_ms(durations, 0.99))


def p99_steps(series: Series) -> list[float | None]:
    """The 99th percentile of the durations in each step, in milliseconds."""
    by_step: list[list[Sequence[int]]] = [[] for _ in range(series.steps)]
    for each in series.counts:
        at = (each.at_ms - series.begin_ms) // series.step_ms
        if 0 <= at < series.steps and each.state in EXECUTED:
            by_step[at].append(each.durations)
    return [quantile_ms(added(durations), 0.99) for durations in by_step]


def flow_figures(names: Iterable[str], minutes: Series, hours: Series) -> list[FlowFigures]:
    """The figures of flows: those with these names, and all that had runs in these times.

    The flows with the most trouble come first, then those with the most runs.
    """
    in_minutes, in_hours = _by_flow(minutes.counts), _by_flow(hours.counts)
    all_names = dict.fromkeys((*names, *in_minutes, *in_hours))
    figures = [
        _flow(name, in_minutes.get(name, []), hours, in_hours.get(name, [])) for name in all_names
    ]
    return sorted(figures, key=lambda each: (-each.trouble, -each.accepted, -_day(each)))


def _flow(name: str, minutes: list[Minute], hours: Series, in_hours: list[Minute]) -> FlowFigures:
    accepted = steps_of(hours, in_hours, is_accepted)
    return FlowFigures(
        name,
        sum(each.runs for each in minutes if is_accepted(each)),
        sum(each.runs for each in minutes if is_trouble(each)),
        latency_of(minutes),
        list(zip(accepted, steps_of(hours, in_hours, is_trouble), strict=True)),
    )


def _day(figures: FlowFigures) -> int:
    return sum(accepted for accepted, _ in figures.by_hour)


def _by_flow(counts: Iterable[Minute]) -> dict[str, list[Minute]]:
    by_flow: dict[str, list[Minute]] = {}
    for each in counts:
        if each.flow is not None:
            by_flow.setdefault(each.flow, []).append(each)
    return by_flow


def trouble_now(minutes: Series, hours: Series, now_ms: int) -> Trouble | None:
    """The runs that got in trouble in the last `NOW_MINUTES`, and since when some do.

    It began at the first trouble after which no `NOW_MINUTES` passed without any. Before the last
    60 minutes, an hour without trouble ends the search. None: no run got in trouble.
    """
    numbers = steps_of(minutes, minutes.counts, is_trouble)
    recent_ms = now_ms - NOW_MINUTES * MINUTE_MS
    recent = [each for each in minutes.counts if each.at_ms >= recent_ms and each.flow is not None]
    runs = sum(each.runs for each in recent if is_trouble(each))
    if not runs:
        return None
    ended = sum(each.runs for each in recent if each.state in EXECUTED | TROUBLE_STATES)
    first = _beginning(numbers, NOW_MINUTES)
    since_ms = minutes.begin_ms + first * minutes.step_ms
    if first < NOW_MINUTES:  # it may have begun before these minutes
        by_hour = steps_of(hours, hours.counts, is_trouble)
        this_hour = max(0, (since_ms - hours.begin_ms) // hours.step_ms)
        before = [1 if at == this_hour else number for at, number in enumerate(by_hour)]
        since_ms = min(since_ms, hours.begin_ms + _beginning(before[: this_hour + 1], 1) * HOUR_MS)
    return Trouble(runs, ended, since_ms, max(each.at_ms for each in recent if is_trouble(each)))


def _beginning(numbers: Sequence[int], gap: int) -> int:
    """The index where the newest numbers above 0 begin. They end with ``gap`` zeros before."""
    first, zeros = len(numbers) - 1, 0
    for at in range(len(numbers) - 1, -1, -1):
        zeros = 0 if numbers[at] else zeros + 1
        if numbers[at]:
            first = at
        elif zeros >= gap:
            break
    return first
