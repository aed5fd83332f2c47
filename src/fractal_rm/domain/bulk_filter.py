"""Which runs an action on many runs means, if its filter does not name their states."""

from __future__ import annotations

from msgspec.structs import replace

from fractal_rm.domain.actions import BulkAction, Cancel, Discard, Release
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State

_OPEN = (State.ACCEPTED, State.RUNNING, State.OFFERED, State.PARKED)
# In the order of `State`, so that the same filter is always the same value.
_TROUBLE = tuple(state for state in State if state in TROUBLE_STATES)


def filter_for(action: BulkAction, run_filter: RunFilter) -> RunFilter:
    """The filter with the states to which the action can apply, if it names none.

    A repetition, a new sending and a mark of many runs mean runs in trouble only: a run that
    succeeded is repeated only if the filter names its state. And they mean only runs that no
    operator has handled, unless the filter or the action says otherwise.
    """
    if isinstance(action, Cancel):
        return _with_states(run_filter, *_OPEN)
    if isinstance(action, Release):
        return _with_states(run_filter, State.PARKED)
    if run_filter.handled is None and (isinstance(action, Discard) or not action.again):
        run_filter = replace(run_filter, handled=False)
    return _with_states(run_filter, *_TROUBLE)


def names_runs(run_filter: RunFilter) -> bool:
    """Whether a filter chooses certain runs.

    An end, the kind and what operators did are not enough: nearly every run may match.
    """
    return not replace(run_filter, until_ms=None, dead_letters=None, handled=None).is_empty


def _with_states(run_filter: RunFilter, *states: State) -> RunFilter:
    return run_filter if run_filter.states is not None else replace(run_filter, states=states)
