"""Actions on many runs: which runs, in which order, how many, and when they stop."""

from __future__ import annotations

import asyncio

import pytest

from fractal_rm.domain.actions import (
    ActionDone,
    BulkRequest,
    Cancel,
    CountChanged,
    Discard,
    NotPossible,
    Release,
    Replay,
    Send,
    WrongState,
)
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State
from fractal_rm.engine import bulk
from fractal_rm.engine.bulk import act_on_all
from fractal_rm.engine.ports import Found, RunSummary

FLOW_1 = RunFilter(flow="1")


class Runs:
    """A history with runs ``0`` (the oldest) to ``number - 1``, in pages of two runs."""

    def __init__(self, number: int) -> None:
        self.runs = [
            RunSummary(str(n), "1", State.ACCEPTED, "", "mqtt", None, n, None, "up")
            for n in range(number)
        ]

    def find(self, run_filter, *, cursor=None, limit, oldest_first):
        assert oldest_first
        self.filter = run_filter
        at = int(cursor or 0)
        return Found(self.runs[at : at + 2], str(at + 2) if at + 2 < len(self.runs) else None)


class Acting:
    """Records the actions. ``refused`` are the ids of runs that refuse them."""

    def __init__(self, *refused: str) -> None:
        self.requests = []
        self.refused = refused

    async def __call__(self, request, run):
        self.requests.append(request)
        if run.id in self.refused:
            raise WrongState(f"run {run.id} has ended", run=run.id)
        return ActionDone(run.id)

    @property
    def runs(self):
        return [request.action.run for request in self.requests]


def request(expect: int, run_filter: RunFilter = FLOW_1) -> BulkRequest:
    return BulkRequest(Cancel("", cut=True), run_filter, expect, "anna", "r1")


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch):
    monkeypatch.setattr(bulk, "RATE_PER_S", 1e9)
    monkeypatch.setattr(bulk, "PROGRESS_S", 0)


async def test_the_count_comes_first_and_the_oldest_run_is_the_first():
    acting = Acting()
    answers = [each async for each in act_on_all(request(5), Runs(5), acting)]
    assert (answers[0].total, answers[0].done) == (5, 0)
    assert (answers[-1].done, answers[-1].finished) == (5, True)
    assert acting.runs == ["0", "1", "2", "3", "4"]
    assert acting.requests[3].action == Cancel("3", cut=True)
    assert {each.actor for each in acting.requests} == {"anna"}


async def test_each_run_has_its_own_request_id_that_is_the_same_when_it_is_repeated():
    first, again = Acting(), Acting()
    for acting in (first, again):
        _ = [each async for each in act_on_all(request(3), Runs(3), acting)]
    ids = [each.request_id for each in first.requests]
    assert ids == ["r1:0", "r1:1", "r1:2"] == [each.request_id for each in again.requests]


async def test_refusals_are_counted_by_their_code_and_the_others_go_on():
    acting = Acting("1", "2")
    last = [each async for each in act_on_all(request(4), Runs(4), acting)][-1]
    assert (last.done, last.refused, last.refusals) == (2, 2, {"wrong-state": 2})
    assert last.last_refusal == "run 2 has ended"


@pytest.mark.parametrize(
    ("action", "states"),
    [(Cancel(""), "accepted running offered parked"), (Release(""), "parked"),
     (Replay(""), "failed unknown dead expired"), (Discard(""), "failed unknown dead expired"),
     (Send(""), "failed unknown dead expired")],
)  # fmt: skip
async def test_without_a_state_only_runs_are_meant_to_which_the_action_can_apply(action, states):
    runs = Runs(0)
    for given in (FLOW_1, RunFilter(flow="1", states=(State.SUCCEEDED,))):
        bulk_request = BulkRequest(action, given, 0, "anna", "r1")
        _ = [each async for each in act_on_all(bulk_request, runs, Acting())]
        expected = states if given is FLOW_1 else "succeeded"
        assert " ".join(state.value for state in runs.filter.states) == expected
        assert runs.filter.handled is (None if isinstance(action, (Cancel, Release)) else False)


@pytest.mark.parametrize("action", [Replay("", again=True), Send("", again=True)])
async def test_runs_that_were_handled_before_are_meant_only_with_again(action):
    runs = Runs(0)
    _ = [each async for each in act_on_all(BulkRequest(action, FLOW_1, 0, "a", "r"), runs, None)]
    assert runs.filter.handled is None


async def test_an_empty_filter_never_means_all_runs():
    acting = Acting()
    with pytest.raises(NotPossible, match="the filter has no condition"):
        _ = [each async for each in act_on_all(request(3, RunFilter()), Runs(3), acting)]
    assert acting.requests == []


@pytest.mark.parametrize(
    ("number", "expect", "allowed"),
    [(10, 10, True), (11, 10, True), (12, 10, False), (9, 10, True), (8, 10, False),
     (1, 0, False), (0, 0, True), (0, 1, False), (110, 100, True), (111, 100, False)],
)  # fmt: skip
async def test_nothing_is_done_if_the_count_has_changed_by_more_than_a_tenth(
    number, expect, allowed
):
    acting = Acting()
    answers = act_on_all(request(expect), Runs(number), acting)
    if allowed:
        assert [each async for each in answers][-1].done == number
    else:
        with pytest.raises(CountChanged, match=f"{number} run"):
            await anext(answers)
        assert acting.requests == []


async def test_too_many_runs_are_refused_before_the_first_action(monkeypatch):
    monkeypatch.setattr(bulk, "MAX_RUNS", 5)
    acting = Acting()
    with pytest.raises(NotPossible, match="more than 5 runs match; narrow the filter"):
        await anext(act_on_all(request(6), Runs(6), acting))
    assert acting.requests == []


async def test_closing_the_iterator_stops_after_the_current_run():
    acting = Acting()
    answers = act_on_all(request(5), Runs(5), acting)
    await anext(answers)
    await anext(answers)
    await answers.aclose()
    assert acting.runs == ["0"]


async def test_the_rate_is_limited(monkeypatch):
    monkeypatch.setattr(bulk, "RATE_PER_S", 200)
    pauses = []

    async def sleep(delay_s):
        pauses.append(delay_s)

    monkeypatch.setattr(asyncio, "sleep", sleep)
    _ = [each async for each in act_on_all(request(4), Runs(4), Acting())]
    assert len(pauses) == 4
    assert pauses == sorted(pauses)
    assert 0 < pauses[-1] <= 4 / 200
