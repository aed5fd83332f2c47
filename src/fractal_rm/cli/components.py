"""`components`: what is called, how well it works, and what limits the calls."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click
import msgspec

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import (
    config_option,
    json_option,
    moment,
    print_json,
    print_table,
    read_config,
)
from fractal_rm.cli.safe_text import echo
from fractal_rm.cli.statuses import Processes, ask_processes, print_silent
from fractal_rm.cli.words import short_moment
from fractal_rm.config.model import Component, Config
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.node_status import ComponentStatus
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.story.words import cut, duration
from fractal_rm.engine.ports import FailureGroup, Failures

DAY_MS = 86_400_000
WITHIN_S = 3.0  # a person waits for the counts
MAX_REASON = 80
_WORST_FIRST = ("open", "half-open", "closed")


class ComponentLine(msgspec.Struct, frozen=True):
    """One component, as programs get it. Values that are not known are null.

    ``failed_runs`` counts the runs of the last 24 hours that are in trouble, and that called this
    component last. ``first_failure_ms`` is when the oldest of them was accepted (milliseconds since
    1970), and ``last_failure`` is the kind of the newest of them. ``statuses`` has what each
    running process says about the component now.
    """

    component: str
    configured: bool
    addresses: list[str]
    idempotent: bool | None
    limit: int | None
    rate: str | None
    has_circuit: bool
    failed_runs: int
    first_failure_ms: int | None
    last_failure: FailureGroup | None
    statuses: dict[str, ComponentStatus]


@click.command()
@config_option
@json_option
def components(folder: Path, as_json: bool) -> int:
    """Show the components: their limits, their circuits, and the runs that failed there.

    FAILED counts the runs that failed at the component in the last 24 hours, also those that an
    operator has handled. FIRST and LAST are when the oldest and the newest of them were accepted,
    and WHY is the flow and the reason of the newest. A call that failed and then succeeded, because
    it was repeated, is not counted. NOW has the calls in flight and the calls that wait, if a node
    runs. CIRCUIT is "-" if the component has no circuit.

    Exits 1 if a circuit is open.
    """
    config = read_config(folder)
    processes = ask_processes(Path(config.state_path))
    failures, problem = _read_failures(Path(config.state_path))
    lines = component_lines(config, failures, processes)
    if as_json:
        print_json({"components": lines, "searched_to_ms": failures.searched_to_ms,
                    "problem": problem or None})  # fmt: skip
    else:
        _print(lines, failures, processes, problem)
    return EXIT_PROBLEMS if any(_circuit(line) == "open" for line in lines) else 0


def _read_failures(state: Path) -> tuple[Failures, str]:
    """The failures of the last day, and why some of them are not known."""
    since_ms = SystemClock.now_ms() - DAY_MS
    try:
        failures = SqliteHistory(state).failures(RunFilter(since_ms=since_ms), within_s=WITHIN_S)
    except JournalError as error:
        return Failures([]), str(error)
    return failures, "; ".join(failures.unreadable)


def component_lines(
    config: Config, failures: Failures, processes: Processes
) -> list[ComponentLine]:
    """A line for each configured component, and for each other one that has failures."""
    groups: dict[str, list[FailureGroup]] = {}
    for group in failures.groups:
        if group.component is not None:
            groups.setdefault(group.component, []).append(group)
    names = [*config.components, *sorted(groups.keys() - config.components.keys())]
    return [
        _line(name, config.components.get(name), groups.get(name, []), processes) for name in names
    ]


def _line(
    name: str, component: Component | None, groups: list[FailureGroup], processes: Processes
) -> ComponentLine:
    gate = None if component is None else component.gate
    return ComponentLine(
        component=name,
        configured=component is not None,
        addresses=_addresses(component),
        idempotent=None if component is None else component.idempotent,
        limit=None if gate is None else gate.limit,
        rate=None if gate is None or gate.rate is None else str(gate.rate),
        has_circuit=gate is not None and gate.circuit is not None,
        failed_runs=sum(group.count for group in groups),
        first_failure_ms=min((group.first_ms for group in groups), default=None),
        last_failure=max(groups, key=lambda group: group.last_ms, default=None),
        statuses={
            journal: each
            for journal, status in processes.statuses.items()
            for each in status.components
            if each.component == name
        },
    )


def _addresses(component: Component | None) -> list[str]:
    endpoints = () if component is None else component.endpoints.values()
    return list(dict.fromkeys(str(endpoint.post.origin) for endpoint in endpoints))


def _print(
    lines: list[ComponentLine], failures: Failures, processes: Processes, problem: str
) -> None:
    print_table(
        ("component", "address", "limit", "circuit", "now", "failed", "first", "last", "why"),
        map(_row, lines),
        empty="components.conf has no components",
    )
    for line in lines:
        for journal, status in line.statuses.items():
            if status.circuit not in (None, "closed"):
                echo(f"{line.component}: {_circuit_words(status)} ({journal})")
    if not processes.is_running:
        echo("No node runs, so the calls in flight and the circuits are not known.")
    print_silent(processes)
    if failures.searched_to_ms is not None:
        echo(f"failures are counted since {moment(failures.searched_to_ms)}")
    if problem:
        echo(f"some failures are not counted: {problem}", err=True)


def _circuit_words(status: ComponentStatus) -> str:
    since = ""
    if status.since_ms is not None:
        since = f" for {duration(SystemClock.now_ms() - status.since_ms)}"
    why = f": {status.why}" if status.why else ""
    return f"its circuit is {status.circuit}{since}{why}"


def _row(line: ComponentLine) -> tuple[object, ...]:
    last = line.last_failure
    return (
        line.component,
        ", ".join(line.addresses) if line.configured else "not configured",
        _limit(line),
        _circuit(line),
        _now(line.statuses.values()),
        line.failed_runs or "",
        "" if line.first_failure_ms is None else short_moment(line.first_failure_ms),
        "" if last is None else short_moment(last.last_ms),
        "" if last is None else f"flow {last.flow or '-'}: {cut(last.reason, MAX_REASON)}",
    )


def _limit(line: ComponentLine) -> str:
    limits = [f"{line.limit} at once"] if line.limit is not None else []
    return ", ".join([*limits, line.rate] if line.rate else limits) or "-"


def _circuit(line: ComponentLine) -> str:
    """The worst state of the circuit in the running processes."""
    if not line.has_circuit:
        return "-"
    states = {status.circuit for status in line.statuses.values()}
    return next((each for each in _WORST_FIRST if each in states), "?")


def _now(statuses: Iterable[ComponentStatus]) -> str:
    all_statuses = list(statuses)
    if not all_statuses:
        return "-"
    in_flight = sum(each.in_flight for each in all_statuses)
    waiting = sum(each.waiting for each in all_statuses)
    return f"{in_flight} + {waiting} wait" if waiting else str(in_flight)
