"""Links from a list of runs to the actions on all of them."""

from __future__ import annotations

from fractal_rm.domain.bulk_filter import names_runs
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.web.pages.actions.filter_links import fields_of, query_of

_NOT_REPEATED = frozenset({State.HANDED_OFF})


def bulk_links(run_filter: RunFilter) -> list[tuple[str, str]]:
    """The actions on all runs of a list: a label, and the query of the page that asks first.

    There are none for a list without conditions: it would be every run of the node.
    """
    if not names_runs(run_filter):
        return []
    return [
        (label, query_of({"action": action, **fields_of(run_filter)}))
        for label, action in _actions(set(run_filter.states or ()))
    ]


def _actions(states: set[State]) -> list[tuple[str, str]]:
    """The actions that can apply to runs in some states; empty: in any state."""
    found: list[tuple[str, str]] = []
    if not states or any(each.final for each in states - _NOT_REPEATED):
        found.append(("Replay all", "replay"))
    if not states or states & TROUBLE_STATES:
        found.append(("Discard all", "discard"))
    if State.PARKED in states:
        found.append(("Release all", "release"))
    if not states or any(not each.final for each in states):
        found.append(("Cancel all", "cancel"))
    return found
