"""Group runs in trouble by their kind of failure, without reading the runs."""

from __future__ import annotations

import msgspec

from fractal_rm.adapters.sqlite.format.faults import shape_of
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import FailureGroup, RunSummary

Kind = tuple[State, object, object, object, str]  # state, flow, component, cause, shape


class _Group(msgspec.Struct):
    newest: RunSummary
    count: int
    first_ms: int


class Groups:
    """Groups that grow as runs are found."""

    def __init__(self) -> None:
        self._groups: dict[Kind, _Group] = {}

    def add(
        self, newest: RunSummary, count: int = 1, first_ms: int | None = None, shape: str = ""
    ) -> None:
        """Add runs of one kind. ``first_ms`` is the time of the oldest of them."""
        shape = shape or shape_of(newest.reason)
        kind = newest.state, newest.flow, newest.component, newest.cause, shape
        first_ms = newest.accepted_ms if first_ms is None else first_ms
        group = self._groups.get(kind)
        if group is None:
            self._groups[kind] = _Group(newest, count, first_ms)
            return
        group.count += count
        group.first_ms = min(group.first_ms, first_ms)
        if newest.id > group.newest.id:
            group.newest = newest

    def groups(self) -> list[FailureGroup]:
        """The groups, the one that occurred last first."""
        groups = [
            FailureGroup(
                *kind[:1], run.flow, run.component, run.cause, kind[-1], group.count,
                group.first_ms, run.accepted_ms, run.id, run.reason,
            )
            for kind, group in self._groups.items()
            for run in (group.newest,)
        ]  # fmt: skip
        return sorted(groups, key=lambda group: group.newest, reverse=True)
