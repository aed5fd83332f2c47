"""The conditions of a filter: in SQL, and for runs that are not in a table."""

from __future__ import annotations

import json
from collections.abc import Iterator
from math import inf
from typing import Any

import msgspec

from fractal_rm.adapters.sqlite.read.fault_table import SelectedFaults
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.engine.ports import RunSummary

HERE = "here"  # the value of `RunFilter.node` that stands for this node


class Conditions(msgspec.Struct, frozen=True):
    """The conditions on rows of ``runs``: ``text`` is SQL, and ``values`` are its parameters.

    ``index`` is the index by which SQLite must find the rows; "": by their numbers.
    """

    text: str
    values: list[Any]
    index: str = ""


def as_stored(value: int) -> int:
    """Return a time as a number that SQLite can store."""
    return max(-(1 << 63), min(value, (1 << 63) - 1))


def is_about_trouble(wanted: RunFilter) -> bool:
    """Whether only runs in trouble can match."""
    asks = (wanted.component, wanted.cause, wanted.text)
    return any(each is not None for each in asks) or (
        wanted.states is not None and TROUBLE_STATES.issuperset(wanted.states)
    )


def conditions_of(
    wanted: RunFilter, faults: SelectedFaults | None, handled: str | None
) -> Conditions:
    """Return the conditions of a filter.

    ``faults`` are the kinds of failure of a filter about trouble. ``handled`` is the condition on
    runs that were handled.
    """
    found: list[tuple[str, list[Any]]] = []
    index = ""
    if faults is not None:
        found.append(("fault IN (SELECT value FROM json_each(?))", [json.dumps(faults.numbers)]))
        index = "runs_by_fault"
    elif wanted.states is not None:
        states = [state.value for state in wanted.states]
        found.append((f"state IN ({', '.join('?' * len(states))})", [*states]))
    if faults is None and wanted.node not in (None, HERE):
        index = "runs_elsewhere"
    if faults is None or not faults.exact:
        found += _on_flow(wanted)
    found += _on_other_columns(wanted)
    if handled is not None:
        found.append((handled, []))
    if wanted.text is not None and not (faults is not None and faults.text_is_exact):
        found.append(("has_text(reason, ?)", [wanted.text.casefold()]))
    text = "".join(f" AND {each}" for each, _ in found)
    return Conditions(text, [value for _, values in found for value in values], index)


def _on_flow(wanted: RunFilter) -> Iterator[tuple[str, list[Any]]]:
    if wanted.flow is not None:
        yield "flow = ?", [wanted.flow]
    if wanted.dead_letters is not None:
        yield ("flow IS NULL" if wanted.dead_letters else "flow IS NOT NULL"), []


def _on_other_columns(wanted: RunFilter) -> Iterator[tuple[str, list[Any]]]:
    if wanted.node == HERE:
        yield "node IS NULL", []
    elif wanted.node is not None:
        yield "node = ?", [wanted.node]
    if wanted.source is not None:
        yield "source = ?", [wanted.source]
    if wanted.since_ms is not None:
        yield "accepted_ms >= ?", [as_stored(wanted.since_ms)]
    if wanted.until_ms is not None:
        yield "accepted_ms < ?", [as_stored(wanted.until_ms)]
    if wanted.slower_ms is not None:
        yield "settled_ms - accepted_ms >= ?", [as_stored(wanted.slower_ms)]


def matches(wanted: RunFilter, run: RunSummary) -> bool:
    """Return whether a run fulfils all conditions of a filter, except ``handled``."""
    in_trouble = run.state in TROUBLE_STATES
    return (
        wanted.flow in (None, run.flow)
        and (wanted.states is None or run.state in wanted.states)
        and (wanted.component is None or (in_trouble and run.component == wanted.component))
        and (wanted.cause is None or (in_trouble and run.cause == wanted.cause))
        and (wanted.text is None or (in_trouble and has_text(run.reason, wanted.text.casefold())))
        and (wanted.node is None or wanted.node == (run.node or HERE))
        and wanted.source in (None, run.source)
        and (wanted.since_ms is None or run.accepted_ms >= wanted.since_ms)
        and (wanted.until_ms is None or run.accepted_ms < wanted.until_ms)
        and wanted.dead_letters in (None, run.flow is None)
        and (wanted.slower_ms is None or took_ms(run) >= wanted.slower_ms)
    )


def took_ms(run: RunSummary) -> float:
    """How long a run took from acceptance to its end, in ms; less than any number: it is open."""
    return -inf if run.settled_ms is None else run.settled_ms - run.accepted_ms


def has_text(reason: str, folded_text: str) -> bool:
    """Return whether a reason contains a text, which is case-folded. The case does not matter.

    It is also a function of SQL. A damaged reason may have any type.
    """
    return folded_text in str(reason).casefold()
