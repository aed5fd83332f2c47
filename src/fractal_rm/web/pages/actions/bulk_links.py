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
        for label, action in _actions(
            set(run_filter.states or ()), has_ended=run_filter.slower_ms is not None
        )
    ]


def _actions(states: set[State], *, has_ended: bool) -> list[tuple[str, str]]:
    """The actions that can apply to runs in some states; empty: in any state.

    Of runs in any state, those in trouble are repeated or discarded: `filter_for`.
    """
    found: list[tuple[str, str]] = []
    which = "all" if states else "all in trouble"
    if not states or any(each.final for each in states - _NOT_REPEATED):
        found.append((f"Replay {which}", "replay"))
    if not states or states & TROUBLE_STATES:
        found.append((f"Discard {which}", "discard"))
    if State.PARKED in states:
        found.append(("Release all", "release"))
    if not has_ended and (not states or any(not each.final for each in states)):
        found.append(("Cancel all", "cancel"))
    return found
