"""Find a run by its id, or by the first characters of its id."""

from __future__ import annotations

from collections.abc import Iterator

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.config.model import Config
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import Accepted
from fractal_rm.domain.flow import SubFlow
from fractal_rm.engine.ports import RunDetail, RunSummary

PAGE_RUNS = 1_000  # the number of runs in one query of the history
_HINT = "`fractal-rm runs list` shows the runs"


class NoSuchRun(FractalError):
    """No journal of the node contains the run."""

    code = "no-such-run"


def find_run(history: SqliteHistory, run_id: str) -> RunDetail:
    """Return the run with this id, or the only run whose id begins with it. Raises NoSuchRun."""
    if not run_id:  # an empty text would be the beginning of every id
        raise NoSuchRun(f"give the first characters of a run's id; {_HINT}")
    detail = history.run(run_id) or _by_prefix(history, run_id)
    if detail is None:
        raise NoSuchRun(f"the journals of this node have no run {run_id}; {_HINT}")
    return detail


def _by_prefix(history: SqliteHistory, prefix: str) -> RunDetail | None:
    runs = history.runs(before=prefix.upper() + "~", limit=2)  # "~" sorts after any id's characters
    runs = [run for run in runs if run.id.startswith(prefix.upper())]
    if len(runs) > 1:
        raise NoSuchRun(f"more than one run id begins with {prefix}: give more characters")
    return history.run(runs[0].id) if runs else None


def children_of(history: SqliteHistory, parent: RunDetail, config: Config) -> Iterator[RunDetail]:
    """Yield the children: the runs that the RUN steps of ``parent`` started.

    The children of a child follow the child.
    """
    flow = config.flows.get(parent.summary.flow or "")
    for step in flow.steps if flow else ():
        if isinstance(step, SubFlow):
            child = _child(history, parent.summary, step)
            if child is not None:
                yield child
                yield from children_of(history, child, config)


def _child(history: SqliteHistory, parent: RunSummary, step: SubFlow) -> RunDetail | None:
    """Return the run that a RUN step of ``parent`` started; None if it is not in the history.

    The first fact of a child contains its origin: the id of the parent and the number of the step.
    """
    origin, last_id = f"{parent.id}:{step.number}", None
    while True:
        page = history.runs(flow=step.flow, limit=PAGE_RUNS, before=last_id)
        for run in page:
            # A child is never older than its parent, so the search ends at the first older run. A
            # run counts as older only if its time and its id are both smaller: the wall clock may
            # have been set back, and another node may have made the id of the parent.
            if run.accepted_ms < parent.accepted_ms and run.id < parent.id:
                return None
            detail = history.run(run.id) if run.source == "flow" else None
            if detail and detail.facts and _origin(detail) == origin:
                return detail
        if len(page) < PAGE_RUNS:
            return None
        last_id = page[-1].id


def _origin(detail: RunDetail) -> object:
    first = detail.facts[0].fact
    return first.origin if isinstance(first, Accepted) else None
