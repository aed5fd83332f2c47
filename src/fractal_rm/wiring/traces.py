"""The traces of a process."""

from __future__ import annotations

from fractal_rm.domain.trace import trace_id_of
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.open_runs import OpenRuns


def trace_of(runs: OpenRuns, dependencies: Dependencies, run_id: str) -> str | None:
    """The id of the trace of an open run, or None."""
    run = runs.get(run_id)
    return None if run is None else trace_id_of(run, dependencies.trace_sample)
