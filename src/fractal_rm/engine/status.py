"""What a node says about its work now (`NodeStatus`): for metrics, pages and commands."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence

from fractal_rm import __version__
from fractal_rm.domain.fault_times import FaultTimes
from fractal_rm.domain.node_status import FlowStatus, NodeStatus
from fractal_rm.engine.component_status import component_statuses
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.ports import ReadinessCheck
from fractal_rm.engine.runs_now import OpenRunSurvey, RunsNow

FAULTS_EVERY_S = 5.0


class StatusReader:
    """Says what a node does now, from its objects."""

    def __init__(self, dependencies: Dependencies, lifecycle: Lifecycle) -> None:
        self._dependencies = dependencies
        self._lifecycle = lifecycle
        self._fault_times, self._next_note_s = FaultTimes(), 0.0
        self._survey = OpenRunSurvey(lifecycle.runs, dependencies.clock.monotonic_s)

    @property
    def must_note_faults(self) -> bool:
        """Whether `note_faults` was not called for `FAULTS_EVERY_S`."""
        return self._dependencies.clock.monotonic_s() >= self._next_note_s

    def note_faults(self, checks: Iterable[ReadinessCheck]) -> dict[str, int]:
        """Note which checks are not well; returns since when, in milliseconds since 1970."""
        clock = self._dependencies.clock
        self._next_note_s, now_ms = clock.monotonic_s() + FAULTS_EVERY_S, clock.now_ms()
        return self._fault_times.update((each.name for each in checks if not each.ok), now_ms)

    async def read(self, checks: Sequence[ReadinessCheck]) -> NodeStatus:
        """The status. The event loop is never blocked for longer than about a millisecond.

        So the numbers are not all of the same moment if there are many open runs.
        """
        dependencies, lifecycle = self._dependencies, self._lifecycle
        faults_since_ms = self.note_faults(checks)
        journal, condition, queue = dependencies.journal, lifecycle.condition, lifecycle.queue
        load, blocked = queue.capacity.load, journal.blocked
        sizes = await journal.sizes()
        gates = lifecycle.executor.gates
        found = await self._survey.now(dependencies.config.flows)
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
            open_runs={state.text: count for state, count in found.by_state.items()},
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
