"""Child runs obey the LIMIT of their flow, and every run that waits for a permit ends."""

from __future__ import annotations

import asyncio

import pytest

from engine_stage import URL, Stage, until
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.expression import Literal, ObjectOf, Payload
from fractal_rm.domain.flow import Content, Flow, OnError, Order, QueueSettings, SubFlow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.open_runs import OpenRuns
from steps import flow, get

ONE_AT_A_TIME = QueueSettings(limit=1)
LIMITED = flow(get(1, "b 1"), flow_id="8", queueing=ONE_AT_A_TIME)
PARENT = flow(SubFlow(1, "8"), get(2, "a 1"), flow_id="7")


def stage_of(*flows: Flow, **changes: object) -> Stage:
    return Stage(flows={each.id: each for each in flows}, **changes)


def in_flight(stage: Stage) -> int:
    return stage.load.in_flight


async def test_child_runs_count_towards_the_limit():
    async with stage_of(PARENT, LIMITED) as stage:
        release = stage.block_calls("b/1")
        runs = [(await stage.send(each)).run for each in ("7", "7", "8", "7", "8")]
        await until(lambda: stage.called_endpoints() == ["b/1"] and in_flight(stage) == 1)
        release.set()
        for each in runs:
            assert (await stage.wait_for_outcome(each)).state is State.SUCCEEDED
        assert stage.called_endpoints().count("b/1") == 5


async def test_a_run_that_waits_for_a_permit_holds_no_slot():
    async with stage_of(PARENT, LIMITED, flow(get(1, "a 2"), flow_id="6"),
                        bounds=Bounds(max_inflight_runs=2)) as stage:  # fmt: skip
        release = stage.block_calls("b/1")
        waiting = [(await stage.send("7")).run for _ in range(10)]
        await until(lambda: in_flight(stage) == 1)
        assert (await stage.run("6")).state is State.SUCCEEDED
        release.set()
        for each in waiting:
            assert (await stage.wait_for_outcome(each)).state is State.SUCCEEDED


async def test_permits_are_given_in_the_order_of_requests():
    children: list[str] = []  # in the order of their calls
    async with stage_of(PARENT, LIMITED) as stage:

        async def answer(request):
            children.append(request.headers["idempotency-key"].partition(":")[0])
            await asyncio.sleep(0)
            return HttpResponse(200, b"", b"")

        stage.components.answers[f"{URL}/b/1"] = answer
        runs = [(await stage.send("7")).run for _ in range(5)]
        for each in runs:
            await stage.wait_for_outcome(each)
        origins = [stage.disk.facts(child)[0].origin for child in children]
        assert origins == [f"{run}:1" for run in runs]


async def test_a_run_of_a_trigger_gets_a_permit_while_steps_of_other_runs_wait():
    async with stage_of(PARENT, LIMITED) as stage:
        release = stage.block_calls("b/1")
        others = [(await stage.send("7")).run for _ in range(40)]
        await until(lambda: stage.called_endpoints() == ["b/1"] and in_flight(stage) == 1)
        triggered_run = (await stage.send("8")).run
        release.set()
        assert (await stage.wait_for_outcome(triggered_run)).state is State.SUCCEEDED
        assert any(not stage.state(each).final for each in others)


async def test_the_deadline_of_the_parent_ends_the_wait_for_a_permit():
    parent = flow(SubFlow(1, "8"), flow_id="7", deadline_ms=50)
    async with stage_of(parent, LIMITED) as stage:
        release = stage.block_calls("b/1")
        holder = (await stage.send("8")).run
        await until(lambda: in_flight(stage) == 1)
        run_id = (await stage.send("7")).run
        await until(lambda: stage.load.waiting == 1)
        stage.clock.ms += 50
        outcome = await stage.wait_for_outcome(run_id)
        assert (outcome.state, outcome.reason) == (
            State.EXPIRED, "the deadline of 0.05 s ended when 0 of 1 calls were made",
        )  # fmt: skip
        release.set()
        assert (await stage.wait_for_outcome(holder)).state is State.SUCCEEDED
        # The expired run is no longer in the queue.
        assert (await stage.run("8")).state is State.SUCCEEDED


@pytest.mark.parametrize(
    "indirect", [False, True], ids=["RUN step of the run", "RUN step of its child run"]
)
async def test_a_step_gets_a_free_permit_immediately_while_another_step_is_in_flight(indirect):
    middle = flow(SubFlow(1, "8"), flow_id="6")
    run_step = SubFlow(1, "6" if indirect else "8")
    parent = flow(run_step, get(2, "a 1"), order=Order.DATAFLOW, flow_id="7")
    async with stage_of(parent, middle, LIMITED) as stage:
        release_b, release_a = stage.block_calls("b/1"), stage.block_calls("a/1")
        holder = (await stage.send("8")).run
        run_id = (await stage.send("7")).run
        await until(lambda: stage.called_endpoints() == ["b/1", "a/1"])
        release_b.set()
        assert (await stage.wait_for_outcome(holder)).state is State.SUCCEEDED
        await until(lambda: stage.called_endpoints() == ["b/1", "a/1", "b/1"])
        release_a.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED


async def test_a_failed_run_withdraws_its_request_for_a_permit():
    parent = flow(SubFlow(1, "8"), get(2, "slow 1"), order=Order.DATAFLOW, flow_id="7")
    async with stage_of(parent, LIMITED, flow(*PARENT.steps, flow_id="6")) as stage:
        release = stage.block_calls("b/1")
        stage.set_answer("slow/1", "no", 500)
        holder = (await stage.send("8")).run
        await until(lambda: stage.called_endpoints() == ["b/1"])
        failed = (await stage.send("7")).run
        await until(lambda: "slow/1" in stage.called_endpoints())
        other = (await stage.send("6")).run
        release.set()
        assert (await stage.wait_for_outcome(failed)).state is State.FAILED
        assert (await stage.wait_for_outcome(holder)).state is State.SUCCEEDED
        assert (await stage.wait_for_outcome(other)).state is State.SUCCEEDED


async def test_a_run_that_has_failed_stops_waiting_for_a_permit():
    # The evaluation of this content fails for the payload [].
    failing_content = Content(json=ObjectOf((("of", Payload("abs(@)")),)))
    parent = flow(
        SubFlow(1, "8"), SubFlow(2, "6", failing_content), order=Order.DATAFLOW, flow_id="7"
    )
    async with stage_of(parent, LIMITED, flow(get(1, "a 1"), flow_id="6")) as stage:
        release = stage.block_calls("b/1")
        holder = (await stage.send("8")).run
        await until(lambda: stage.called_endpoints() == ["b/1"])
        outcome = await stage.run("7", payload=[])
        assert (outcome.state, outcome.reason[:13]) == (State.FAILED, "step 2, RUN 6")
        release.set()
        assert (await stage.wait_for_outcome(holder)).state is State.SUCCEEDED
        assert stage.called_endpoints() == ["b/1"]


async def test_a_failed_run_frees_the_permit_that_its_child_and_other_runs_wait_for():
    child = flow(get(1, "a 2"), SubFlow(2, "8"), flow_id="6")
    parent = flow(SubFlow(1, "6"), SubFlow(2, "8"), get(3, "a 1"), order=Order.DATAFLOW,
                  flow_id="7")  # fmt: skip
    async with stage_of(parent, child, LIMITED) as stage:
        release_b, release_child = stage.block_calls("b/1"), stage.block_calls("a/2")
        fails = asyncio.Event()

        async def fail_later(_):
            await fails.wait()
            return HttpResponse(500, b"", b"")

        stage.components.answers[f"{URL}/a/1"] = fail_later
        holder = (await stage.send("8")).run
        await until(lambda: stage.called_endpoints() == ["b/1"])
        run_id = (await stage.send("7")).run
        await until(lambda: sorted(stage.called_endpoints()) == ["a/1", "a/2", "b/1"])
        fails.set()
        await until(lambda: "StepFailed" in stage.facts(run_id))
        release_b.set()
        for each in (holder, (await stage.send("8")).run):  # these end while the child is in flight
            assert (await stage.wait_for_outcome(each)).state is State.SUCCEEDED
        release_child.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.FAILED
        # The run ``holder``, the later run of flow 8, and the run of the child have made the call.
        assert stage.called_endpoints().count("b/1") == 3


async def test_a_step_that_begins_no_run_frees_its_permit():
    # The evaluation of this content fails for the payload [].
    failing_content = Content(json=ObjectOf((("of", Payload("abs(@)")),)))
    parent = flow(
        SubFlow(1, "8", failing_content), get(2, "a 1"), flow_id="7", errors=OnError.CONTINUE
    )
    async with stage_of(parent, LIMITED) as stage:
        release = stage.block_calls("a/1")
        run_id = (await stage.send("7", payload=[])).run
        await until(lambda: stage.called_endpoints() == ["a/1"])
        assert (await stage.run("8")).state is State.SUCCEEDED
        release.set()
        assert (await stage.wait_for_outcome(run_id)).state is State.SUCCEEDED


async def test_the_cost_of_a_waiting_step_does_not_grow_with_the_number_of_waiting_steps(
    monkeypatch,
):
    lookup_count = 0
    parent_of = OpenRuns.parent

    def counted(runs: OpenRuns, run: Run) -> Run | None:
        nonlocal lookup_count
        lookup_count += 1
        return parent_of(runs, run)

    monkeypatch.setattr(OpenRuns, "parent", counted)
    async with stage_of(PARENT, LIMITED) as stage:
        release = stage.block_calls("b/1")
        runs = [(await stage.send("7")).run for _ in range(200)]
        await until(lambda: stage.called_endpoints() == ["b/1"] and in_flight(stage) == 1)
        release.set()
        for each in runs:
            assert (await stage.wait_for_outcome(each)).state is State.SUCCEEDED
    assert lookup_count < 20 * len(runs)


async def test_an_ended_run_leaves_no_entries_in_the_queue():
    async with stage_of(PARENT, LIMITED) as stage:
        queue = stage.queue
        assert len(queue.permits) == len(queue.deferred) == 0
        release = stage.block_calls("b/1")
        runs = [(await stage.send("7")).run for _ in range(20)]
        await until(lambda: stage.called_endpoints() == ["b/1"] and in_flight(stage) == 1)
        assert len(queue.permits) > 20  # an entry for each run, also for those that wait
        release.set()
        for each in runs:
            await stage.wait_for_outcome(each)
        await until(lambda: not in_flight(stage))
        assert len(queue.permits) == len(queue.deferred) == 0


async def test_a_flow_that_runs_itself_needs_no_second_permit():
    runs_8 = flow(get(1, "b 1"), SubFlow(2, "9", when=Literal(False)), SubFlow(3, "8"),
                 queueing=ONE_AT_A_TIME)  # fmt: skip
    runs_9 = flow(SubFlow(1, "9", when=Literal(False)), get(2, "a 1"), flow_id="8")
    runs_itself = flow(SubFlow(1, "6"), flow_id="6", queueing=ONE_AT_A_TIME)
    async with stage_of(runs_8, runs_9, runs_itself) as stage:
        assert (await stage.run("9")).state is State.SUCCEEDED
        outcome = await stage.run("6")
        assert outcome.reason.endswith("RUN steps can be nested at most 16 deep")


@pytest.mark.parametrize("errors", list(OnError))
async def test_the_second_of_two_runs_that_wait_for_each_other_fails(errors):
    def running(number: str, other: str, target: str) -> Flow:
        no_further = Content(json=ObjectOf((("go", Literal(False)),)))
        runs_other = SubFlow(2, other, no_further, when=Payload("go"))
        steps = get(1, target), runs_other
        return flow(*steps, flow_id=number, queueing=ONE_AT_A_TIME, errors=errors)

    first, second = running("9", "8", "a 1"), running("8", "9", "b 1")
    async with stage_of(first, second) as stage:
        release_a, release_b = stage.block_calls("a/1"), stage.block_calls("b/1")
        first_run, second_run = [
            (await stage.send(each, payload={"go": True})).run for each in ("9", "8")
        ]
        await until(lambda: sorted(stage.called_endpoints()) == ["a/1", "b/1"])
        release_a.set()
        await until(lambda: in_flight(stage) == 1)
        release_b.set()
        outcome = await stage.wait_for_outcome(second_run)
        if errors is OnError.STOP:
            assert (outcome.state, outcome.reason) == (
                State.FAILED,
                (
                    "step 2, RUN 9: runs that wait for the end of this run hold all permits of"
                    " flow 9 (LIMIT 1)"
                ),
            )
        assert (await stage.wait_for_outcome(first_run)).state is State.SUCCEEDED
        assert stage.node.unfinished == 0
