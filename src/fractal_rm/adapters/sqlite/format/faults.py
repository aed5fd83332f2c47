"""The table ``faults``: one row for each kind of failure.

A kind of failure is a state, a flow, the component that was called last, a cause, and the reason
without its numbers. If the same failure occurs 3,412 times, the table has one row for it. So a
search for failures reads few rows.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any

import msgspec

from fractal_rm.adapters.log.run_updates import RunUpdate
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.row_sums import with_checksum
from fractal_rm.domain.flow import Call, Flow

MAX_KINDS = 10_000
SHAPE_CHARS = 200
VERSIONS_CACHED = 1_000
# When the table has MAX_KINDS rows, new kinds that differ only in the shape share a row with this
# shape. When it has twice as many rows, all new kinds with the same state share a row.
OTHER = "…"
_NUMBERS = re.compile(r"\d+")
_flow = msgspec.json.Decoder(Flow).decode

FailureKind = tuple[str, Any, Any, Any, str]  # state, flow, component, cause, shape


class Faults:
    """A cache of the table. New rows are pending until `commit` or `rollback`."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Read the table. Raises sqlite3.Error."""
        self._numbers: dict[FailureKind, int] = {
            _kind(columns): no for no, *columns in db.execute(statements.READ_FAULTS)
        }
        self._next_no = 1 + max(self._numbers.values(), default=0)
        self._components: dict[str, dict[int, str]] = {}
        self._new_numbers: dict[FailureKind, int] = {}

    def __len__(self) -> int:
        return len(self._numbers)

    def row_number_of(
        self, db: sqlite3.Connection, update: RunUpdate, no: int, flows: Mapping[str, bytes]
    ) -> int:
        """Return the row number of a run's kind of failure; add a row if the kind is new.

        ``no`` is the number of the run. ``flows`` are definitions that are not in the history yet.
        """
        component = None
        if update.failed_step is not None:
            version = _first_version(db, update, no)
            component = self._components_of(db, version, flows).get(update.failed_step)
        shape = shape_of(update.reason)
        return self._row_number((update.state.text, update.flow, component, update.cause, shape))

    def _row_number(self, kind: FailureKind) -> int:
        old_number = self._numbers.get(kind) or self._new_numbers.get(kind)
        if old_number is not None:
            return old_number
        state, *others, shape = kind
        size = len(self._numbers) + len(self._new_numbers)
        if size >= MAX_KINDS and shape != OTHER:
            return self._row_number((*kind[:4], OTHER))
        if size >= 2 * MAX_KINDS and any(others):
            return self._row_number((state, None, None, None, OTHER))
        self._new_numbers[kind] = number = self._next_no + len(self._new_numbers)
        return number

    @property
    def new_rows(self) -> list[tuple[Any, ...]]:
        """The pending rows, which the caller inserts."""
        return [with_checksum((no, *kind)) for kind, no in self._new_numbers.items()]

    def commit(self) -> None:
        """Keep the pending rows: they have been inserted and committed."""
        self._numbers.update(self._new_numbers)
        self._next_no += len(self._new_numbers)
        self._new_numbers = {}

    def rollback(self) -> None:
        """Discard the pending rows: their transaction was rolled back."""
        self._new_numbers = {}

    def _components_of(
        self, db: sqlite3.Connection, version: str, flows: Mapping[str, bytes]
    ) -> dict[int, str]:
        """Return the components that a version of a flow calls, by step number."""
        components = self._components.get(version)
        if components is None:
            if len(self._components) >= VERSIONS_CACHED:
                self._components.clear()
            components = self._components[version] = read_components(db, version, flows)
        return components


def shape_of(reason: str) -> str:
    """Return a reason without its numbers, cut to SHAPE_CHARS characters."""
    return _NUMBERS.sub("#", reason)[:SHAPE_CHARS]


def _kind(row: list[Any]) -> FailureKind:
    state, flow, component, cause, shape = row
    return state, flow, component, cause, shape


def _first_version(db: sqlite3.Connection, update: RunUpdate, no: int) -> str:
    """Return the flow version with which a run began; "" if it is not known."""
    if update.new is None:
        row = db.execute(statements.FIRST_VERSION, (no,)).fetchone()
        return str(row[0]) if row else ""
    return update.new.version


def read_components(
    db: sqlite3.Connection, version: str, flows: Mapping[str, bytes]
) -> dict[int, str]:
    """Return the components that a version of a flow calls, by step number."""
    body = flows.get(version)
    if body is None:
        row = db.execute(statements.FLOW_BODY, (version,)).fetchone()
        body = row[0] if row else b""
    try:
        flow = _flow(body)
    except (msgspec.MsgspecError, RecursionError):  # damaged, or written by a later release
        return {}
    return {step.number: step.component for step in flow.steps if isinstance(step, Call)}
