"""What a node says about its work now (`NodeStatus`): for metrics, pages and commands."""

from __future__ import annotations

import asyncio
import os
from collections import Counter
from collections.abc import Sequence

from fractal_rm import __version__
from fractal_rm.domain.node_status import FlowStatus, NodeStatus
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.component_status import component_statuses
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import ReadinessCheck
from fractal_rm.engine.runs_now import RunsNow, find_runs_now

# Counting so many runs takes less than a millisecond. Then other tasks have a turn.
RUNS_PER_TURN = 4_000


async def node_status(
    dependencies: Dependencies,
    lifecycle: Lifecycle,
    checks: Sequence[ReadinessCheck],
    faults_since_ms: dict[str, int],
) -> NodeStatus:
    """The status of a node. The event loop is never blocked for longer than about a millisecond.

    So the numbers are not all of the same moment if there are many open runs.
    """
    journal, condition, queue = dependencies.journal, lifecycle.condition, lifecycle.queue
    load, blocked = queue.capacity.load, journal.blocked
    sizes = await journal.sizes()
    open_runs = await _count_by_state(lifecycle.runs)
    gates = lifecycle.executor.gates
    found = await find_runs_now(lifecycle.runs, dependencies.config.flows)
    components = component_statuses(dependencies, found.at_components, gates)
    return NodeStatus(
        node=dependencies.node_id,
        journal=dependencies.journal_name,
        version=__version__,
        pid=os.getpid(),
        started_ms=dependencies.started_ms,
        now_ms=dependencies.clock.now_ms(),
        paused=condition.paused,
        draining=condition.draining or condition.stopping,
        open_runs=open_runs,
        in_flight=load.in_flight,
        waiting=load.waiting,
        oldest_waiting_ms=queue.oldest_waiting_ms,
        flows=_flow_statuses(dependencies, lifecycle, found),
        components=components,
        checks=[(check.name, check.ok, check.text) for check in checks],
        journal_bytes=sizes.total_bytes,
        unprojected_bytes=sizes.unprojected_bytes,
        journal_blocked=blocked and blocked.code,
        faults_since_ms=faults_since_ms,
    )


async def _count_by_state(runs: OpenRuns) -> dict[str, int]:
    counts: Counter[State] = Counter()
    snapshot: list[Run] = list(runs)
    for at in range(0, len(snapshot), RUNS_PER_TURN):
        if at:
            await asyncio.sleep(0)
        counts.update([run.state for run in snapshot[at : at + RUNS_PER_TURN]])
    return {state.text: count for state, count in counts.items()}


def _flow_statuses(
    dependencies: Dependencies, lifecycle: Lifecycle, found: RunsNow
) -> list[FlowStatus]:
    """One entry for each flow of the configuration, and for each other flow that has runs."""
    queue = lifecycle.queue
    waiting, in_flight = queue.waiting_by_flow(), queue.permits.in_flight
    for_limit = queue.waiting_for_permits()
    names = dict.fromkeys((*dependencies.config.flows, *waiting, *in_flight))
    pauses = lifecycle.condition.paused_flows
    return [
        FlowStatus(
            name, waiting[name], in_flight[name], for_limit[name],
            pauses[name].actor if name in pauses else None,
            pauses[name].at_ms if name in pauses else None,
            dict(found.at_steps.get(name, ())),
        )
        for name in names
        if name
    ]  # fmt: skip
