"""Find a run by its id, or by the first characters of its id."""

from __future__ import annotations

from collections.abc import Iterator

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.config.model import Config
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import Accepted
from fractal_rm.domain.flow import SubFlow
from fractal_rm.engine.ports import RunDetail

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
    """Yield the children: the runs that the RUN steps of ``parent`` started, in order of the steps.

    The children of a child follow the child. If a step started several runs, the first counts.
    """
    flow = config.flows.get(parent.summary.flow or "")
    steps = [step for step in flow.steps if isinstance(step, SubFlow)] if flow else []
    if not steps:
        return
    by_origin: dict[object, RunDetail] = {}
    for run in history.children(parent.summary.id):
        detail = history.run(run.id)
        if detail is not None and detail.facts:
            by_origin.setdefault(_origin(detail), detail)
    for step in steps:
        child = by_origin.get(f"{parent.summary.id}:{step.number}")
        if child is not None:
            yield child
            yield from children_of(history, child, config)


def _origin(detail: RunDetail) -> object:
    first = detail.facts[0].fact
    return first.origin if isinstance(first, Accepted) else None
