"""Random flows that run each other: no LIMIT is exceeded, and every run ends."""

from __future__ import annotations

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from engine_stage import URL, Stage
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.flow import Flow, Order, QueueSettings, SubFlow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE, State
from steps import flow, get


def stage_of(*flows: Flow, **changes: object) -> Stage:
    return Stage(flows={each.id: each for each in flows}, **changes)


names = st.sampled_from(["1", "2", "3"])
limits_and_orders = st.tuples(st.sampled_from([1, 1, 2, None]), st.sampled_from(list(Order)))
call = st.none()  # see `make_flow`
# The last step of each flow runs a random flow, so the flows may form a cycle.
cyclic = st.tuples(*[st.tuples(st.lists(call, max_size=2), names)] * 3).map(
    lambda flows: [[*calls, name] for calls, name in flows]
)
# Each flow runs only flows with higher numbers.
acyclic = st.tuples(
    st.lists(st.sampled_from([None, "2", "3"]), min_size=1, max_size=3),
    st.lists(st.sampled_from([None, "3"]), min_size=1, max_size=3),
    st.lists(call, min_size=1, max_size=2),
)


def make_flow(number: int, steps: list[str | None], limit: int | None, order: Order) -> Flow:
    """A flow with these steps: None stands for a call, a flow id for a RUN step."""
    made_steps = [
        get(at, "a 1") if each is None else SubFlow(at, each)
        for at, each in enumerate(steps, start=1)
    ]
    return flow(*made_steps, flow_id=str(number), order=order, queueing=QueueSettings(limit=limit))


def check_limits(stage: Stage) -> None:
    """Assert that no flow has more runs with a permit than its LIMIT."""
    open_runs = stage.node.lifecycle.runs

    def has_permit(run: Run) -> bool:
        """Whether a run has a permit: it has begun, and no ancestor is a run of the same flow."""
        ancestor, has_begun = open_runs.parent(run), run.placement is HERE
        while ancestor is not None:
            if ancestor.flow.id == run.flow.id:
                return False
            ancestor = open_runs.parent(ancestor)
        return has_begun

    for name, count in Counter(run.flow.id for run in open_runs if has_permit(run)).items():
        limit = stage.dependencies.config.flows[name].queueing.limit
        assert limit is None or count <= limit


@settings(max_examples=60)
@given(
    st.one_of(cyclic, acyclic),
    st.lists(limits_and_orders, min_size=3, max_size=3),
    st.lists(names, min_size=2, max_size=10),
)
def test_no_limit_is_exceeded_and_every_run_ends(flows, limits_and_orders, triggers):
    async def play() -> None:
        all_flows = [
            make_flow(number, steps, *limit_and_order)
            for number, (steps, limit_and_order) in enumerate(
                zip(flows, limits_and_orders, strict=True), start=1
            )
        ]
        async with stage_of(*all_flows, bounds=Bounds(max_inflight_runs=4)) as stage:

            async def answer(_):
                check_limits(stage)
                await asyncio.sleep(0)
                return HttpResponse(200, b"", b"")

            stage.components.answers[f"{URL}/a/1"] = answer
            runs = [(await stage.send(each)).run for each in triggers]
            for each in runs:
                assert (await stage.wait_for_outcome(each)).state in {State.SUCCEEDED, State.FAILED}
            assert stage.node.unfinished == 0
            assert not stage.queue.permits.in_use

    asyncio.run(play())
