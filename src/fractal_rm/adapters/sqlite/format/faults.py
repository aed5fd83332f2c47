"""The table ``faults``: each kind of failure once, so that failures are searched in few rows.

A kind is a state, a flow, the component that was called last, a cause, and the reason without its
numbers. So "the same failure 3,412 times" is one row.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any

import msgspec

from fractal_rm.adapters.log.run_updates import RunUpdate
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.row_sums import with_sum
from fractal_rm.domain.flow import Call, Flow

MAX_KINDS = 10_000
SHAPE_CHARS = 200
VERSIONS_CACHED = 1_000
OTHER = "…"  # the shape of every kind beyond MAX_KINDS
_NUMBERS = re.compile(r"\d+")
_flow = msgspec.json.Decoder(Flow).decode

Kind = tuple[str, Any, Any, Any, str]  # state, flow, component, cause, shape


class Faults:
    """The kinds in the table, and the new ones of one transaction until `commit` or `rollback`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Read the table. Raises sqlite3.Error."""
        self._known: dict[Kind, int] = {
            kind: no for no, *rest in db.execute(statements.FAULTS) for kind in [_kind(rest)]
        }
        self._next_no = 1 + max(self._known.values(), default=0)
        self._components: dict[str, dict[int, str]] = {}
        self._new: dict[Kind, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def number_of(
        self, db: sqlite3.Connection, story: RunUpdate, no: int, flows: Mapping[str, bytes]
    ) -> int:
        """The number of a run's kind of failure. ``flows`` are not in the history yet."""
        component = None
        if story.failed_step is not None:
            version = _first_version(db, story, no)
            component = self._components_of(db, version, flows).get(story.failed_step)
        shape = _NUMBERS.sub("#", story.reason)[:SHAPE_CHARS]
        return self._number((story.state.text, story.flow, component, story.cause, shape))

    def _number(self, kind: Kind) -> int:
        found = self._known.get(kind) or self._new.get(kind)
        if found is not None:
            return found
        if len(self._known) + len(self._new) >= MAX_KINDS and kind[4] != OTHER:
            return self._number((kind[0], None, None, None, OTHER))
        self._new[kind] = number = self._next_no + len(self._new)
        return number

    @property
    def new_rows(self) -> list[tuple[Any, ...]]:
        """The rows to insert."""
        return [with_sum((no, *kind)) for kind, no in self._new.items()]

    def commit(self) -> None:
        """The new rows are in the table."""
        self._known.update(self._new)
        self._next_no += len(self._new)
        self._new = {}

    def rollback(self) -> None:
        """The new rows are not in the table."""
        self._new = {}

    def _components_of(
        self, db: sqlite3.Connection, version: str, flows: Mapping[str, bytes]
    ) -> dict[int, str]:
        """The components that a flow calls, by step number."""
        known = self._components.get(version)
        if known is None:
            if len(self._components) >= VERSIONS_CACHED:
                self._components.clear()
            known = self._components[version] = _read_components(db, version, flows)
        return known


def _kind(row: list[Any]) -> Kind:
    state, flow, component, cause, shape = row
    return state, flow, component, cause, shape


def _first_version(db: sqlite3.Connection, story: RunUpdate, no: int) -> str:
    """The version of the flow that a run began with; empty if it is not known."""
    if story.new is None:
        row = db.execute(statements.FIRST_VERSION, (no,)).fetchone()
        return str(row[0]) if row else ""
    return story.new.version


def _read_components(
    db: sqlite3.Connection, version: str, flows: Mapping[str, bytes]
) -> dict[int, str]:
    body = flows.get(version)
    if body is None:
        row = db.execute(statements.FLOW_BODY, (version,)).fetchone()
        body = row[0] if row else b""
    try:
        flow = _flow(body)
    except (msgspec.MsgspecError, RecursionError):  # of a later release, or damaged
        return {}
    return {step.number: step.component for step in flow.steps if isinstance(step, Call)}
