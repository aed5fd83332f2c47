"""Find a run by its id, or by the first letters of it."""

from __future__ import annotations

from fractal_rm.adapters.sqlite.history import SqliteHistory
from fractal_rm.domain.errors import FractalError
from fractal_rm.engine.ports import RunDetail

_LISTED = "`fractal-rm runs list` lists them"


class NoSuchRun(FractalError):
    """The id is in no journal of the node."""

    code = "no-such-run"


def find_run(history: SqliteHistory, run_id: str) -> RunDetail:
    """The run with this id, or the one whose id begins so. Raises NoSuchRun."""
    if not run_id:  # every id begins so
        raise NoSuchRun(f"give the first letters of a run's id; {_LISTED}")
    detail = history.run(run_id) or _by_first_letters(history, run_id)
    if detail is None:
        raise NoSuchRun(f"no run {run_id} is in the journals of this node; {_LISTED}")
    return detail


def _by_first_letters(history: SqliteHistory, first: str) -> RunDetail | None:
    found = history.runs(before=first.upper() + "~", limit=2)
    found = [run for run in found if run.id.startswith(first.upper())]
    if len(found) > 1:
        raise NoSuchRun(f"more than one run begins with {first}: give more of its id")
    return history.run(found[0].id) if found else None
