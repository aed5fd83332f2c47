"""The traces of a process: made if ``traces.endpoint`` is set in comm.conf."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from fractal_rm import __version__
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.trace import trace_id_of
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.open_runs import OpenRuns

if TYPE_CHECKING:
    from fractal_rm.adapters.traces.export import Traces


class TracesNotInstalled(FractalError):
    """``traces.endpoint`` is set, but the extra ``traces`` is not installed."""

    code = "traces-not-installed"


def trace_of(runs: OpenRuns, dependencies: Dependencies, run_id: str) -> str | None:
    """The id of the trace of an open run, or None."""
    run = runs.get(run_id)
    return None if run is None else trace_id_of(run, dependencies.trace_sample)


def make_traces(dependencies: Dependencies) -> Traces | None:
    """Begin to collect traces, if they are configured. Raises TracesNotInstalled."""
    settings = dependencies.config.traces
    if settings is None:
        return None
    from fractal_rm.adapters.traces.export import Traces  # noqa: PLC0415 - most nodes have none

    try:
        from fractal_rm.adapters.traces.otlp import OtlpSender  # noqa: PLC0415
    except ImportError as error:
        raise TracesNotInstalled(
            f"traces.endpoint is set, but {error.name} is not installed: install"
            " fractal-rm[traces], or delete the key"
        ) from error
    traces = Traces(
        OtlpSender(settings.endpoint, lambda: dependencies.node_id, __version__),
        lambda: dependencies.config,
        dependencies.telemetry,
        asyncio.get_running_loop().call_soon_threadsafe,
        settings.sample,
    )
    dependencies.observers.add(traces)
    dependencies.counting.traces = lambda: (traces.exported, traces.dropped)
    return traces
