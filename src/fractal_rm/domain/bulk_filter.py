"""Which runs an action on many runs means, if its filter does not name their states."""

from __future__ import annotations

from msgspec.structs import replace

from fractal_rm.domain.actions import BulkAction, Cancel, Release
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State

_OPEN = (State.ACCEPTED, State.RUNNING, State.OFFERED, State.PARKED)
# In the order of `State`, so that the same filter is always the same value.
_TROUBLE = tuple(state for state in State if state in TROUBLE_STATES)


def filter_for(action: BulkAction, run_filter: RunFilter) -> RunFilter:
    """The filter with the states to which the action can apply.

    A repetition, a new sending and a mark of many runs mean runs in trouble only: a run that
    succeeded is repeated only if the filter names its state.
    """
    if run_filter.states is not None:
        return run_filter
    match action:
        case Cancel():
            return replace(run_filter, states=_OPEN)
        case Release():
            return replace(run_filter, states=(State.PARKED,))
        case _:
            return replace(run_filter, states=_TROUBLE)
