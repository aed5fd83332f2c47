"""What became of an action on many runs: how long it still takes, and how its new runs ended."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES, State
from fractal_rm.engine.ports import Count, History
from fractal_rm.web.bulks import Bulk
from fractal_rm.web.pages.actions.filter_links import fields_of, query_of

COUNT_WITHIN_S = 0.05
MOST = 100_000
OPEN = "open"
MEASURED = 5  # actions from which the speed is known


class NewRuns(msgspec.Struct, frozen=True):
    """New runs that are in the same kind of state. ``query``: that of the list of these runs."""

    label: str
    tone: str
    count: Count
    query: str


def left_ms(bulk: Bulk, now_ms: int) -> int | None:
    """How long the rest takes, at the speed that was measured; None: not known yet, or ended."""
    progress = bulk.progress
    handled = progress.done + progress.refused
    if bulk.ended_ms is not None or handled < MEASURED or now_ms <= bulk.begun_ms:
        return None
    return (progress.total - handled) * (now_ms - bulk.begun_ms) // handled


def new_runs(history: History, bulk: Bulk, now_ms: int) -> list[NewRuns]:
    """The runs that were made by repetition while it was running. Blocks: it reads the disk.

    Runs that somebody else has repeated in the same time are counted, too. Empty if the action
    makes no new runs.
    """
    if bulk.action != "replay" or not bulk.progress.done:
        return []
    until_ms = (now_ms if bulk.ended_ms is None else bulk.ended_ms) + 1
    made = RunFilter(
        flow=bulk.request.filter.flow,
        source="replay",
        since_ms=bulk.begun_ms,
        until_ms=until_ms,
    )  # fmt: skip
    return [_counted(history, made, *kind) for kind in _KINDS]


def _counted(
    history: History, made: RunFilter, label: str, tone: str, states: Sequence[State]
) -> NewRuns:
    wanted = msgspec.structs.replace(made, states=tuple(states))
    count = history.count(wanted, most=MOST, within_s=COUNT_WITHIN_S)
    return NewRuns(label, tone, count, query_of(fields_of(wanted)))


_TROUBLE = [each for each in State if each in TROUBLE_STATES]
_OPEN = [each for each in State if not each.final]
_OTHERS = [
    each
    for each in State
    if each.final and each not in TROUBLE_STATES and each is not State.SUCCEEDED
]
_KINDS = (
    ("succeeded", "ok", [State.SUCCEEDED]),
    ("in trouble", "fail", _TROUBLE),
    (OPEN, "wait", _OPEN),
    ("ended otherwise", "quiet", _OTHERS),
)
