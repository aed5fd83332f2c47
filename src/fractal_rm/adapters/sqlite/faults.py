"""What goes wrong, each kind once: the small table in which failures are looked for.

A kind is a state, a flow, the component that was called last, a cause, and the reason without its
numbers. So "the same failure 3,412 times" is one row, and a text is looked for in few.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Mapping
from typing import Any

import msgspec

from fractal_rm.adapters.log.stories import Story
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.sums import summed
from fractal_rm.domain.flow import Call, Flow

MOST = 10_000
SHAPE_CHARS = 200
VERSIONS_KEPT = 1_000
OTHER = "…"  # the shape of what is one kind too many
_NUMBERS = re.compile(r"\d+")
_flow = msgspec.json.Decoder(Flow).decode

Kind = tuple[str, Any, Any, Any, str]  # state, flow, component, cause, shape


class Faults:
    """Those that the history has, and those of one transaction until it is durable (`kept`)."""

    def __init__(self, db: sqlite3.Connection) -> None:
        """Read them. Raises sqlite3.Error."""
        self._known: dict[Kind, int] = {
            kind: no for no, *rest in db.execute(statements.FAULTS) for kind in [_kind(rest)]
        }
        self._next_no = 1 + max(self._known.values(), default=0)
        self._components: dict[str, dict[int, str]] = {}
        self._new: dict[Kind, int] = {}

    def __len__(self) -> int:
        return len(self._known)

    def number(
        self, db: sqlite3.Connection, story: Story, no: int, flows: Mapping[str, bytes]
    ) -> int:
        """The number of what went wrong with a run. ``flows`` are not in the history yet."""
        component = None
        if story.failed_step is not None:
            version = _version(db, story, no)
            component = self._of_version(db, version, flows).get(story.failed_step)
        shape = _NUMBERS.sub("#", story.reason)[:SHAPE_CHARS]
        return self._number((story.state.text, story.flow, component, story.cause, shape))

    def _number(self, kind: Kind) -> int:
        found = self._known.get(kind) or self._new.get(kind)
        if found is not None:
            return found
        if len(self._known) + len(self._new) >= MOST and kind[4] != OTHER:
            return self._number((kind[0], None, None, None, OTHER))
        self._new[kind] = number = self._next_no + len(self._new)
        return number

    @property
    def new_rows(self) -> list[tuple[Any, ...]]:
        """Those that the history does not have."""
        return [summed((no, *kind)) for kind, no in self._new.items()]

    def kept(self) -> None:
        """The history has them."""
        self._known.update(self._new)
        self._next_no += len(self._new)
        self._new = {}

    def forget(self) -> None:
        """The transaction did not come to its end."""
        self._new = {}

    def _of_version(
        self, db: sqlite3.Connection, version: str, flows: Mapping[str, bytes]
    ) -> dict[int, str]:
        """The components of a flow, by the number of the call."""
        known = self._components.get(version)
        if known is None:
            if len(self._components) >= VERSIONS_KEPT:
                self._components.clear()
            known = self._components[version] = _components(db, version, flows)
        return known


def _kind(row: list[Any]) -> Kind:
    state, flow, component, cause, shape = row
    return state, flow, component, cause, shape


def _version(db: sqlite3.Connection, story: Story, no: int) -> str:
    """The version of the flow that a run began with; empty: it is not known."""
    if story.new is None:
        row = db.execute(statements.FIRST_VERSION, (no,)).fetchone()
        return str(row[0]) if row else ""
    return story.new.version


def _components(db: sqlite3.Connection, version: str, flows: Mapping[str, bytes]) -> dict[int, str]:
    body = flows.get(version)
    if body is None:
        row = db.execute(statements.FLOW_BODY, (version,)).fetchone()
        body = row[0] if row else b""
    try:
        flow = _flow(body)
    except (msgspec.MsgspecError, RecursionError):  # of a later release, or damaged: no component
        return {}
    return {step.number: step.component for step in flow.steps if isinstance(step, Call)}
