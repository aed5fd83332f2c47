"""What a running process of a node says about its work now, for `top`, metrics and pages."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class FlowStatus(msgspec.Struct, frozen=True):
    """One flow: numbers of runs in this process.

    ``paused_by`` is the operator who paused it, and ``paused_ms`` when, in milliseconds since 1970.
    ``at_steps``: how many runs are at each step, by the position of the step in the flow, from 0. A
    run that waits for the limit of a component, or for its next attempt, is at its step, too. Runs
    of an older definition of the flow are missing there.
    """

    flow: str
    waiting: int = 0
    in_flight: int = 0
    waiting_for_limit: int = 0
    paused_by: str | None = None
    paused_ms: int | None = None
    at_steps: dict[int, int] = {}


class ComponentStatus(msgspec.Struct, frozen=True):
    """One component. ``circuit`` is ``closed``, ``open`` or ``half-open``; None: not configured.

    ``waiting``: calls that wait for the limit, the rate or the circuit. ``since_ms``: when the
    circuit changed, in milliseconds since 1970. ``why``: why it is open.
    """

    component: str
    in_flight: int = 0
    waiting: int = 0
    circuit: str | None = None
    since_ms: int | None = None
    why: str = ""


class NodeStatus(msgspec.Struct, frozen=True):
    """One process. ``journal`` is its name: ``up``, ``mqtt`` or ``api``. Times are wall times.

    ``open_runs``: numbers of open runs by state. ``oldest_waiting_ms``: since when the oldest run
    waits in the queue. ``checks`` has a name, whether it is well, and a text for each condition.
    ``faults_since_ms`` has since when checks are not well, by name.
    """

    node: str
    journal: str
    version: str
    pid: int
    started_ms: int
    now_ms: int
    paused: bool
    draining: bool
    open_runs: dict[str, int]
    in_flight: int
    waiting: int
    oldest_waiting_ms: int | None
    flows: list[FlowStatus]
    components: list[ComponentStatus]
    checks: list[tuple[str, bool, str]]
    journal_bytes: int = 0
    unprojected_bytes: int = 0
    journal_blocked: str | None = None
    faults_since_ms: dict[str, int] = {}


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
