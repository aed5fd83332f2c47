"""What an operator should know before many runs are acted on."""

from __future__ import annotations

from collections.abc import Iterator

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.options import moment
from fractal_rm.cli.safe_text import safe_line
from fractal_rm.domain.list_names import list_names
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.domain.story.words import count
from fractal_rm.engine.ports.history import FailureGroup

MAX_KINDS = 5
WITHIN_S = 5.0  # a person waits for the question


def about_runs(history: SqliteHistory, run_filter: RunFilter) -> Iterator[str]:
    """Lines about the runs in trouble that match: their flows, their times, and what went wrong.

    There are no lines if the filter means other runs, too.
    """
    if run_filter.states is None or not set(run_filter.states) <= TROUBLE_STATES:
        return
    found = history.failures(run_filter, within_s=WITHIN_S)
    if not found.groups:
        return
    flows = list(dict.fromkeys(each.flow for each in found.groups if each.flow is not None))
    whose = f"{'flow' if len(flows) == 1 else 'flows'} {list_names(flows)}, " if flows else ""
    first = moment(min(each.first_ms for each in found.groups))[:19]
    last = moment(max(each.last_ms for each in found.groups))[:19]
    times = f"accepted {first}" if first == last else f"accepted {first} to {last}"
    older = "" if found.searched_to_ms is None else "; older ones are not shown"
    yield f"{whose}{times}{older}:"
    kinds = sorted(found.groups, key=lambda each: -each.count)
    for group in kinds[:MAX_KINDS]:
        yield f"- {_kind(group)}"
    if others := kinds[MAX_KINDS:]:
        yield f"- {count(sum(each.count for each in others), 'run')} for other reasons"


def _kind(group: FailureGroup) -> str:
    where = f", {group.component}" if group.component else ""
    flow = f"flow {group.flow}" if group.flow is not None else "no flow"
    return f"{group.count:,} {group.state.value} ({flow}{where}): {safe_line(group.reason)}"
