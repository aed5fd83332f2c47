"""Reads the runs of a journal in memory."""

from __future__ import annotations

from collections.abc import Sequence

from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.domain.facts import Accepted, Discarded
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.run import Run, fold
from fractal_rm.engine.ports.history import Handled, RunDetail, RunSummary


class MemoryPastRuns:
    """Port `PastRuns`. ``journal`` is the name of the journal."""

    def __init__(self, disk: JournalContent, journal: str = "up") -> None:
        self._disk = disk
        self._journal = journal

    def run(self, run_id: str) -> RunDetail | None:
        """One run; see the port."""
        stored = self._disk.runs.get(run_id)
        if stored is None:
            return None
        facts = stored.facts
        first_ms = facts[0].at_ms
        run = fold(Run(run_id, stored.flow, first_ms), [each.fact for each in facts])
        ends = [each.at_ms for each in facts if not isinstance(each.fact, Discarded)]
        summary = RunSummary(
            run_id, stored.flow.id or None, run.state, run.reason, run.accepted.source, run.node,
            first_ms, ends[-1] if run.state.final else None, self._journal,
        )  # fmt: skip
        return RunDetail(summary, list(facts))

    def handled(self, run_ids: Sequence[str]) -> dict[str, Handled]:
        """What operators did last with runs; see the port."""
        found: dict[str, Handled] = {}
        for run_id, stored in self._disk.runs.items():
            for each in stored.facts:
                fact = each.fact
                if isinstance(fact, Accepted) and isinstance(fact.replays, str):
                    actor = fact.actor if isinstance(fact.actor, str) else None
                    found[fact.replays] = Handled(run_id, each.at_ms, actor)
                elif isinstance(fact, Discarded):
                    found[run_id] = Handled(None, each.at_ms, fact.actor)
        return {run_id: found[run_id] for run_id in run_ids if run_id in found}

    def recorded_flow(self, journal: str, version: str) -> Flow | None:  # noqa: ARG002 - one journal
        """The flow of this version; see the port."""
        flows = (stored.flow for stored in self._disk.runs.values())
        return next((flow for flow in flows if flow_version(flow) == version), None)
