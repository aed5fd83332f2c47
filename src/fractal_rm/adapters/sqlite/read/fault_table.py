"""The table ``faults`` in memory, for searches by component, cause and text."""

from __future__ import annotations

import re
import sqlite3
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.faults import OTHER, SHAPE_CHARS, shape_of
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES

_NUMBER = re.compile(r"[\d#]")


class Fault(msgspec.Struct, frozen=True, gc=False):
    """A row of ``faults``."""

    no: int
    state: str
    flow: str | None
    component: str | None
    cause: str | None
    shape: str


class SelectedFaults(msgspec.Struct, frozen=True):
    """The kinds of failure that a filter selects.

    ``exact``: every run of these kinds has the flow, the state, the component and the cause of the
    filter. ``text_is_exact``: the reason of every such run contains the text.
    """

    numbers: list[int]
    exact: bool
    text_is_exact: bool


class FaultTable:
    """The rows, which are never changed. New rows are read by `refresh`."""

    def __init__(self) -> None:
        self._faults: dict[int, Fault] = {}
        self._last_no = 0

    def refresh(self, db: sqlite3.Connection) -> None:
        """Read new rows. Raises sqlite3.Error."""
        for no, *columns in db.execute(f"{statements.READ_FAULTS} WHERE no > ?", (self._last_no,)):
            values: list[Any] = columns
            self._faults[no] = Fault(no, *values)
            self._last_no = max(self._last_no, no)

    def get(self, no: int | None) -> Fault | None:
        """The row with a number; None: there is none."""
        return None if no is None else self._faults.get(no)

    def select(self, wanted: RunFilter) -> SelectedFaults:
        """The kinds of failure whose runs may match a filter."""
        states = {state.value for state in wanted.states or TROUBLE_STATES}
        text = None if wanted.text is None else wanted.text.casefold()
        is_plain = text is None or not (len(text) > SHAPE_CHARS or _NUMBER.search(text))
        text_shape = None if text is None else shape_of(text)
        numbers: list[int] = []
        exact, text_is_exact = True, is_plain
        for fault in self._faults.values():
            if fault.state not in states or not _may_match(fault, wanted):
                continue
            if text_shape is not None:
                in_shape = text_shape in fault.shape.casefold()
                if not (in_shape or fault.shape == OTHER or len(fault.shape) >= SHAPE_CHARS):
                    continue
                text_is_exact = text_is_exact and in_shape
            # The row of a run has its flow even if its kind of failure has none.
            exact = exact and fault.flow is not None
            numbers.append(fault.no)
        return SelectedFaults(numbers, exact, text_is_exact)


def _may_match(fault: Fault, wanted: RunFilter) -> bool:
    if wanted.component not in (None, fault.component) or wanted.cause not in (None, fault.cause):
        return False
    if fault.flow is None:
        return True
    return wanted.flow in (None, fault.flow) and not wanted.dead_letters
