"""What `top` shows, as lines of text, made from values."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm.cli.options import moment, table_lines
from fractal_rm.cli.safe_text import fit, safe_line
from fractal_rm.cli.statuses import Processes
from fractal_rm.cli.words import short_moment
from fractal_rm.domain.node_status import FlowStatus, NodeStatus, flows_now
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.domain.story.words import cut, duration, size
from fractal_rm.engine.ports import FailureGroup, Minute

MINUTE_MS = 60_000
BARS = "▁▂▃▄▅▆▇█"
SHOWN_MINUTES = 20
MAX_FLOWS, MAX_FAILURES = 8, 6


class Picture(msgspec.Struct, frozen=True):
    """Everything that `top` shows at one moment. Times are in milliseconds since 1970.

    ``minutes`` are those of the last 20 minutes. ``failures`` are those of the last day that nobody
    has handled, the newest first. ``problem`` says why some of it is not known. ``config_problem``
    says what is wrong with the files of the configuration; "": nothing.
    """

    now_ms: int
    processes: Processes
    minutes: list[Minute]
    failures: list[FailureGroup]
    problem: str = ""
    config_problem: str = ""


def top_lines(picture: Picture, columns: int, rows: int | None = None) -> list[str]:
    """The lines of `top`, of at most ``columns`` columns, and at most ``rows`` of them."""
    statuses = list(picture.processes.statuses.values())
    lines = [*_head(picture, statuses), "", *_rates(picture), ""]
    lines += _section(_flow_table(statuses, picture, columns))
    lines += _section(_component_table(statuses, columns))
    lines += _section(_failure_table(picture, columns))
    lines += _checks(statuses)
    if picture.config_problem:
        lines.append(f"✗ config: {picture.config_problem}")
    if picture.problem:
        lines.append(f"not known: {picture.problem}")
    shown = [fit(safe_line(line), columns).rstrip() for line in lines]
    return shown if rows is None else shown[:rows]


def _section(table: list[str]) -> list[str]:
    return [*table, ""] if table else []


def _head(picture: Picture, statuses: Sequence[NodeStatus]) -> list[str]:
    now = moment(picture.now_ms)[:19]
    if not picture.processes.is_running:
        return [f"no node runs  {now}  (the figures are from the journals)"]
    lines = [_about(status, picture.now_ms) for status in statuses]
    lines[:1] = [f"{lines[0]}  {now}"] if lines else [now]
    lines += [f"{name}: runs, but does not answer: {why}"
              for name, why in picture.processes.silent.items()]  # fmt: skip
    return [*lines, *_share_in_trouble(picture)]


def _share_in_trouble(picture: Picture) -> list[str]:
    """How many of the runs that ended in the last minutes are in trouble, if any are."""
    ended = sum(each.runs for each in picture.minutes if each.state.final)
    bad = sum(each.runs for each in picture.minutes if each.state in TROUBLE_STATES)
    if not bad:
        return []
    last = f"ended in the last {SHOWN_MINUTES} min"
    return [f"✗ {bad:,} of the {ended:,} runs that {last} are in trouble"]


def _about(status: NodeStatus, now_ms: int) -> str:
    words = ["PAUSED: begins no runs"] if status.paused else []
    words += ["DRAINING: refuses new triggers"] if status.draining else []
    # A node that drains does not accept triggers, which its check "serving" says, too.
    expected = {"serving"} if status.draining else set[str]()
    bad = [name for name, ok, _ in status.checks if not ok and name not in expected]
    words += [f"NOT READY: {', '.join(bad)}"] if bad else []
    words += [f"JOURNAL BLOCKED: {status.journal_blocked}"] if status.journal_blocked else []
    return (
        f"node {status.node} ({status.journal}, {status.version}, pid {status.pid})"
        f"  {', '.join(words) or 'serving'}  up {duration(now_ms - status.started_ms)}"
        f"  journal {size(status.journal_bytes)}"
    )


def _rates(picture: Picture) -> list[str]:
    """Runs in the last minutes, as bars, and what waits."""
    begin_ms = picture.now_ms // MINUTE_MS * MINUTE_MS - (SHOWN_MINUTES - 1) * MINUTE_MS
    accepted, failed = [0] * SHOWN_MINUTES, [0] * SHOWN_MINUTES
    for minute in picture.minutes:
        at = (minute.at_ms - begin_ms) // MINUTE_MS
        if 0 <= at < SHOWN_MINUTES:
            accepted[at] += minute.runs if minute.state is State.ACCEPTED else 0
            failed[at] += minute.runs if minute.state in TROUBLE_STATES else 0
    statuses = picture.processes.statuses.values()
    oldest = min((s.oldest_waiting_ms for s in statuses if s.oldest_waiting_ms is not None),
                 default=None)  # fmt: skip
    waits = "-" if oldest is None else duration(max(0, picture.now_ms - oldest))
    numbers = (
        f"in flight {sum(s.in_flight for s in statuses):,}   waiting"
        f" {sum(s.waiting for s in statuses):,}   oldest waiting {waits}"
    )
    parked = sum(s.open_runs.get(State.PARKED.text, 0) for s in statuses)
    offered = sum(s.open_runs.get(State.OFFERED.text, 0) for s in statuses)
    numbers += f"   parked {parked:,}" if parked else ""
    numbers += f"   offered {offered:,}" if offered else ""
    last = f"{SHOWN_MINUTES} min"
    return [
        f"accepted {bars(accepted)} {sum(accepted):,} in {last}, now {accepted[-1]:,} this minute",
        f"trouble  {bars(failed)} {sum(failed):,} in {last}, now {failed[-1]:,} this minute",
        numbers if picture.processes.statuses else "",
    ]


def bars(numbers: Sequence[int]) -> str:
    """A line of bars; the highest number has the highest bar, and 0 is a dot."""
    most = max(numbers, default=0)
    steps = len(BARS) - 1
    return "".join(BARS[round(each / most * steps)] if each else "·" for each in numbers)


def _flow_table(statuses: Sequence[NodeStatus], picture: Picture, columns: int) -> list[str]:
    runs: dict[str, int] = {}
    bad: dict[str, int] = {}
    for minute in picture.minutes:
        if minute.flow is not None and minute.state is State.ACCEPTED:
            runs[minute.flow] = runs.get(minute.flow, 0) + minute.runs
        elif minute.flow is not None and minute.state in TROUBLE_STATES:
            bad[minute.flow] = bad.get(minute.flow, 0) + minute.runs
    now = flows_now(statuses)
    names = {*runs, *bad, *(name for name, each in now.items() if _is_busy(each))}

    def weight(name: str) -> tuple[int, int, int, str]:
        flow = now.get(name, FlowStatus(name))
        return -bad.get(name, 0), -flow.waiting - flow.in_flight, -runs.get(name, 0), name

    rows = [_flow_row(now.get(name, FlowStatus(name)), runs.get(name, 0), bad.get(name, 0))
            for name in sorted(names, key=weight)]  # fmt: skip
    head = (
        "flow",
        f"runs {SHOWN_MINUTES} min",
        f"trouble {SHOWN_MINUTES} min",
        "in flight",
        "waiting",
        "for limit",
        "",
    )
    table = table_lines(head, rows[:MAX_FLOWS], columns)
    return table + ([f"and {len(rows) - MAX_FLOWS:,} more flows"] if len(rows) > MAX_FLOWS else [])


def _is_busy(flow: FlowStatus) -> bool:
    return bool(flow.waiting or flow.in_flight or flow.paused_by)


def _flow_row(flow: FlowStatus, runs: int, bad: int) -> tuple[object, ...]:
    paused = f"paused by {flow.paused_by}" if flow.paused_by else ""
    return (
        flow.flow, runs, bad or "", flow.in_flight or "", flow.waiting or "",
        flow.waiting_for_limit or "", paused,
    )  # fmt: skip


def _component_table(statuses: Sequence[NodeStatus], columns: int) -> list[str]:
    """The components that are called now, or whose circuit is not closed."""
    rows = [
        (each.component, each.in_flight or "", each.waiting or "", each.circuit or "-", each.why)
        for status in statuses
        for each in status.components
        if each.in_flight or each.waiting or each.circuit not in (None, "closed")
    ]
    return table_lines(("component", "in flight", "waiting", "circuit", "why"), rows, columns)


def _failure_table(picture: Picture, columns: int) -> list[str]:
    rows = [
        (f"{group.count:,}", short_moment(group.first_ms), short_moment(group.last_ms),
         group.flow or "-", group.state.value, group.newest, cut(group.reason, 200))
        for group in picture.failures[:MAX_FAILURES]
    ]  # fmt: skip
    if not rows and not picture.problem:
        return ["no run in trouble needs attention (last 24 hours)"]
    head = ("not handled", "first", "last", "flow", "state", "newest run", "why")
    table = table_lines(head, rows, columns)
    more = len(picture.failures) - MAX_FAILURES
    return table + ([f"and {more:,} more kinds"] if more > 0 else [])


def _checks(statuses: Sequence[NodeStatus]) -> list[str]:
    return [
        f"{'✓' if ok else '✗'} {name}: {text}" if text else f"{'✓' if ok else '✗'} {name}"
        for status in statuses
        for name, ok, text in status.checks
    ]
