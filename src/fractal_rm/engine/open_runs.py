"""The runs of this process that have not ended, with their parent and child runs (RUN)."""

from __future__ import annotations

from collections.abc import Iterator

from msgspec import UNSET

from fractal_rm.domain.flow import SubFlow
from fractal_rm.domain.run import Run


def origin_of(run: Run, number: int) -> str:
    """The origin of a child run: the id of its parent, and the number of the RUN step."""
    return f"{run.id}:{number}"


def parent_id(origin: str) -> str:
    """The id of the parent run in an origin."""
    return origin.rpartition(":")[0]


class OpenRuns:
    """The open runs, by id. Child runs can also be found by their origin."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}
        self._by_origin: dict[str, Run] = {}

    def __iter__(self) -> Iterator[Run]:
        return iter(self._runs.values())

    def __len__(self) -> int:
        return len(self._runs)

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._runs

    def get(self, run_id: str) -> Run | None:
        """Return the open run with this id, or None."""
        return self._runs.get(run_id)

    def add(self, run: Run) -> None:
        """Add a run that is in the journal."""
        self._runs[run.id] = run
        origin = run.accepted.origin
        if origin is not UNSET:
            self._by_origin[origin] = run

    def remove(self, run: Run) -> None:
        """Remove a run that has ended."""
        del self._runs[run.id]
        origin = run.accepted.origin
        if origin is not UNSET:
            self._by_origin.pop(origin, None)

    def child(self, run: Run, number: int) -> Run | None:
        """The open child run of a RUN step, or None."""
        return self._by_origin.get(origin_of(run, number))

    def children(self, run: Run) -> list[Run]:
        """The open child runs of a run."""
        if not self._by_origin:  # fast path: usually there are no child runs
            return []
        children = [
            self.child(run, step.number) for step in run.flow.steps if isinstance(step, SubFlow)
        ]
        return [child for child in children if child is not None]

    def parent(self, run: Run) -> Run | None:
        """The open parent of a run, or None."""
        origin = run.accepted.origin
        return None if origin is UNSET else self._runs.get(parent_id(origin))
