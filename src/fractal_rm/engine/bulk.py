"""An action on many runs: counts them first, then acts on one after the other, the oldest first."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Awaitable, Callable

import msgspec

from fractal_rm.domain.actions import (
    ActionDone,
    ActionRefused,
    ActionRequest,
    BulkRequest,
    CountChanged,
    NotPossible,
)
from fractal_rm.domain.bulk_filter import filter_for
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.engine.ports import History, RunSummary
from fractal_rm.engine.ports.actions import BulkProgress

MAX_RUNS = 100_000  # of one request
RATE_PER_S = 200  # so that the runs of triggers are not held up
PROGRESS_S = 0.25  # the pause between two progresses
PAGE_RUNS = 1_000
# Acts on one run. The summary of the run says in which journal it was found.
ActOnOne = Callable[[ActionRequest, RunSummary], Awaitable[ActionDone]]


async def act_on_all(
    request: BulkRequest, history: History, act: ActOnOne
) -> AsyncGenerator[BulkProgress, None]:
    """Act on all runs that match; see `Actions.act_on_all`.

    The runs are those that match when the request begins. If the filter names no states,
    `filter_for` adds those to which the action can apply. The request id of each run is made from
    that of the request, so a request that is repeated acts on no run twice.
    """
    if request.filter.is_empty:
        raise NotPossible("the filter has no condition: it would mean every run of the node")
    runs = await _matching_runs(history, filter_for(request.action, request.filter))
    _check_count(len(runs), request.expect)
    refusals: Counter[str] = Counter()
    progress = BulkProgress(len(runs))
    yield progress
    now_s = asyncio.get_running_loop().time
    begin_s = shown_s = now_s()
    for number, run in enumerate(runs, 1):
        one = ActionRequest(
            msgspec.structs.replace(request.action, run=run.id),
            request.actor,
            f"{request.request_id}:{run.id}",
        )
        refusal = progress.last_refusal
        try:
            _ = await act(one, run)
        except ActionRefused as error:
            refusals[error.code] += 1
            refusal = error.reason
        refused = refusals.total()
        progress = BulkProgress(len(runs), number - refused, refused, dict(refusals), refusal)
        if now_s() - shown_s >= PROGRESS_S:
            shown_s = now_s()
            yield progress
        await asyncio.sleep(max(0.0, begin_s + number / RATE_PER_S - now_s()))
    yield msgspec.structs.replace(progress, finished=True)


async def _matching_runs(history: History, run_filter: RunFilter) -> list[RunSummary]:
    """All runs that match, the oldest first. Raises NotPossible if there are too many."""
    runs: list[RunSummary] = []
    cursor = None
    while True:
        found = await asyncio.to_thread(
            history.find, run_filter, cursor=cursor, limit=PAGE_RUNS, oldest_first=True
        )
        runs += found.runs
        if len(runs) > MAX_RUNS:
            raise NotPossible(
                f"more than {MAX_RUNS:,} runs match; narrow the filter, for example by a time"
            )
        cursor = found.next
        if cursor is None:
            return runs


def _check_count(number: int, expected: int) -> None:
    """Raise CountChanged if the operator has seen another number of runs."""
    if abs(number - expected) * 10 > expected:
        raise CountChanged(
            f"{number:,} runs match now, and {expected:,} were expected; nothing was done"
        )
