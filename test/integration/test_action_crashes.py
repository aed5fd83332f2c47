"""A node is killed after each write that an action makes: it has happened once, or not at all."""

from __future__ import annotations

import asyncio
from collections import Counter

import msgspec
import pytest

from engine_stage import ManualClock, Stage, peer, settle, until
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.config.model import Bounds
from fractal_rm.domain.actions import (
    ActionRefused,
    ActionRequest,
    Cancel,
    DecideOffer,
    DecideStep,
    Discard,
    Release,
    Replay,
    Send,
    WrongState,
)
from fractal_rm.domain.call_errors import CallTimedOut
from fractal_rm.domain.expression import Payload, Result
from fractal_rm.domain.facts import (
    Accepted,
    CancelRequested,
    Discarded,
    Finished,
    Placed,
    Released,
    Settled,
    StepUndone,
)
from fractal_rm.domain.flow import Order, SubFlow, Wait
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerSource
from steps import each, flow, get, items, post, undo

HOUR_MS = 3_600_000
CHILD = flow(get(1, "b 1", undo=undo("2")), get(2, "slow 1"), get(3, "b 1"), flow_id="8")
HELD = flow(get(1, "a 1", undo=undo("2")), get(2, "slow 1", undo=undo("2")), get(3, "b 1"))
PARENT = flow(get(1, "a 1", undo=undo("2")), SubFlow(2, "8", items(Payload())), get(3, "a 1"))
PARALLEL = flow(
    get(1, "a 1", undo=undo("2")), get(2, "slow 1"), post(3, "b 1", Result(2)),
    order=Order.DATAFLOW,
)  # fmt: skip
LISTED = flow(post(1, "slow 1", Payload(), foreach=each(Payload(), 2), undo=undo("2")))
WAITING = flow(get(1, "a 1", undo=undo("2")), Wait(HOUR_MS), get(2, "b 1"))
DOUBTFUL = flow(get(1, "a 1"), get(2, "once 1"), post(3, "b 1", Result(2)))


class Site:
    """A node, which is killed and started again. Its disk and its clock stay."""

    def __init__(self, main_flow) -> None:
        self.disk, self.clock = JournalContent(), ManualClock()
        self.flows = {each.id: each for each in (main_flow, CHILD)}
        self.stage: Stage
        self.releases: list[asyncio.Event] = []  # let the blocked calls get their answers
        self.run_id = ""
        self.named_node: str | None = None  # the node that the balancer names; it never answers

    async def start(self, *blocked: str) -> None:
        """Start the node. Calls of the endpoints ``blocked`` get no answer."""
        bounds = Bounds(max_attempts=100)  # each kill counts as an attempt
        self.stage = Stage(self.disk, self.clock, flows=self.flows, bounds=bounds)
        for name in ("slow/1", "slow/2", "once/2", "b/2"):
            self.stage.set_answer(name, f"from {name}")
        self.releases = [self.stage.block_calls(name) for name in blocked]
        self.stage.balancer.answer = self.named_node
        self.stage.peers.answer_offer = peer(CallTimedOut("no answer", sent=True))
        await self.stage.node.start()

    async def send(self, **keys) -> None:
        self.run_id = (await self.stage.send("9", **keys)).run

    async def send_until_call(self, endpoint: str, **keys) -> None:
        """Send a trigger, and wait until its run calls an endpoint."""
        await self.send(**keys)
        await until(lambda: endpoint in self.stage.called_endpoints())
        await settle()

    async def crash_during_call(self, endpoint: str) -> None:
        await self.start(endpoint)
        await self.send_until_call(endpoint)
        self.stage.crash()

    async def act(self, action, request_id="r1"):
        if not isinstance(action, DecideOffer):
            return await self.stage.node.act(ActionRequest(action, "anna", request_id))
        if not self.stage.node.resolve(self.run_id, action.decision, "anna"):
            raise WrongState("not in doubt")
        await until(lambda: self.state is not State.OFFERED)
        return None

    def facts(self, run_id: str | None = None) -> list:
        return self.disk.facts(run_id or self.run_id)

    @property
    def state(self) -> State:
        return self.disk.runs[self.run_id].state

    def new_runs(self) -> list[str]:
        """The ids of the runs that repeat the run."""
        return [
            run_id
            for run_id in self.disk.runs
            if isinstance(first := self.disk.facts(run_id)[0], Accepted)
            and first.replays == self.run_id
        ]

    def is_quiet(self) -> bool:
        """Whether no run is left that the node executes."""
        waits = (State.PARKED, State.OFFERED)
        return all(run.state in waits for run in self.stage.node.lifecycle.runs)


# --- the runs on which operators act -------------------------------------------------------------


async def waiting() -> Site:
    site = Site(HELD)
    await site.start()
    site.stage.node.pause(True)
    await site.send()
    return site


async def in_long_wait() -> Site:
    site = Site(WAITING)
    await site.start()
    await site.send()
    await until(lambda: site.facts()[-1:] and not site.stage.load.in_flight)
    await settle()
    return site


async def parked() -> Site:
    site = Site(HELD)
    await site.crash_during_call("slow/1")
    site.clock.ms += HOUR_MS + 1_000
    await site.start()
    await until(lambda: site.state is State.PARKED)
    return site


def running(main_flow, **keys):
    async def make() -> Site:
        site = Site(main_flow)
        await site.start("slow/1")
        await site.send_until_call("slow/1", **keys)
        return site

    return make


async def failed() -> Site:
    site = Site(HELD)
    await site.start()
    site.stage.set_answer("slow/1", "no", 500)
    await site.send()
    await site.stage.wait_for_outcome(site.run_id)
    site.stage.set_answer("slow/1", "yes")
    return site


async def failed_without_undo() -> Site:
    site = Site(flow(get(1, "a 1"), get(2, "slow 1"), get(3, "b 1")))
    await site.start()
    site.stage.set_answer("slow/1", "no", 500)
    await site.send()
    await site.stage.wait_for_outcome(site.run_id)
    site.stage.set_answer("slow/1", "yes")
    return site


async def unknown() -> Site:
    site = Site(DOUBTFUL)
    await site.crash_during_call("once/1")
    await site.start()
    await site.stage.wait_for_outcome(site.run_id)
    return site


async def dead_letter() -> Site:
    site = Site(HELD)
    await site.start()
    arrival = Arrival(TriggerSource.MQTT, b"{")
    await site.stage.node.set_aside(arrival, Malformed("not JSON"))
    (site.run_id,) = site.disk.runs
    return site


async def in_doubt() -> Site:
    site = Site(HELD)
    site.named_node = "3"
    await site.start()
    await site.send()
    await until(lambda: site.stage.telemetry.events.count("offer_in_doubt"))
    return site


# --- what must hold after each kill --------------------------------------------------------------


def check_facts(site: Site) -> None:
    """What holds for all runs: one end each, and no step is done or undone twice."""
    for run_id, stored in site.disk.runs.items():
        facts = site.disk.facts(run_id)
        ends = [fact for fact in facts if isinstance(fact, Settled)]
        assert len(ends) <= 1
        for kind in (Finished, StepUndone):
            steps = Counter(fact.step for fact in facts if isinstance(fact, kind))
            assert set(steps.values()) <= {1}
        if stored.state is State.CANCELLED:
            assert (ends[0].actor, ends[0].request) == ("anna", "r1")
    assert site.stage.node.lifecycle.queue.permits.count_held("9") == 0


def check_cancelled_or_not(site: Site, asked_again: bool) -> None:
    facts = site.facts()
    requests = [fact for fact in facts if isinstance(fact, CancelRequested)]
    was_asked = bool(requests) or site.state is State.CANCELLED
    assert len(requests) <= 1
    if was_asked:
        assert site.state is State.CANCELLED
        finished = {fact.step for fact in facts if isinstance(fact, Finished)}
        undone = {fact.step for fact in facts if isinstance(fact, StepUndone)}
        flow_steps = site.disk.runs[site.run_id].flow.steps
        with_undo = {
            step.number
            for step in flow_steps
            if getattr(getattr(step, "options", None), "undo", None) is not None
        }
        assert undone == (finished & with_undo if requests and requests[0].undo else set())
    else:
        assert not asked_again or site.state is State.SUCCEEDED
    children = [stored for run_id, stored in site.disk.runs.items() if run_id != site.run_id]
    assert all(child.state is site.state for child in children)


def check_repeated_once_or_not(site: Site, asked_again: bool) -> None:
    new = site.new_runs()
    assert len(new) in ((1,) if asked_again else (0, 1))
    # The kill may have interrupted a call of the new run that must not be made twice.
    ends = (
        (State.SUCCEEDED, State.UNKNOWN) if "once" in str(site.flows["9"]) else (State.SUCCEEDED,)
    )
    assert all(site.disk.runs[run_id].state in ends for run_id in new)


def check_discarded_once_or_not(site: Site, asked_again: bool) -> None:
    count = sum(isinstance(fact, Discarded) for fact in site.facts())
    assert count in ((1,) if asked_again else (0, 1))


def check_released_once_or_not(site: Site, asked_again: bool) -> None:
    count = sum(isinstance(fact, Released) for fact in site.facts())
    assert count in ((1,) if asked_again else (0, 1))
    assert site.state is (State.SUCCEEDED if count else State.PARKED)


def check_decided_once_or_not(site: Site, asked_again: bool) -> None:
    decisions = [
        fact
        for fact in site.facts()
        if isinstance(fact, (Placed, Settled)) and fact.actor == "anna"
    ]
    assert len(decisions) in ((1,) if asked_again else (0, 1))
    if not decisions:
        assert site.state is State.OFFERED
    elif isinstance(decisions[0], Placed):
        assert site.state is State.SUCCEEDED
    else:
        assert site.state is State.HANDED_OFF


BODY = b'{"id_flow": "9", "payload": 7, "id": "letter"}'
SCENARIOS = {
    "cancel a waiting run": (waiting, Cancel(""), check_cancelled_or_not),
    "cancel in a long wait": (in_long_wait, Cancel(""), check_cancelled_or_not),
    "cancel a parked run": (parked, Cancel(""), check_cancelled_or_not),
    "cancel a parked run without undo": (parked, Cancel("", undo=False), check_cancelled_or_not),
    "cancel": (running(HELD), Cancel(""), check_cancelled_or_not),
    "cancel a dataflow": (running(PARALLEL), Cancel(""), check_cancelled_or_not),
    "cancel a parent": (running(PARENT), Cancel(""), check_cancelled_or_not),
    "cut": (running(HELD), Cancel("", cut=True), check_cancelled_or_not),
    "cut without undo": (running(HELD), Cancel("", cut=True, undo=False), check_cancelled_or_not),
    "cut a dataflow": (running(PARALLEL), Cancel("", cut=True), check_cancelled_or_not),
    "cut a foreach": (
        running(LISTED, payload=[1, 2, 3]), Cancel("", cut=True), check_cancelled_or_not,
    ),
    "cut a parent": (running(PARENT), Cancel("", cut=True), check_cancelled_or_not),
    "replay": (failed, Replay(""), check_repeated_once_or_not),
    "replay again": (failed, Replay("", again=True), check_repeated_once_or_not),
    "replay from a step": (
        failed_without_undo, Replay("", from_step=2), check_repeated_once_or_not,
    ),
    "step was done": (unknown, DecideStep("", done=True), check_repeated_once_or_not),
    "step was not done": (unknown, DecideStep("", done=False), check_repeated_once_or_not),
    "send": (dead_letter, Send("", BODY), check_repeated_once_or_not),
    "discard a run": (failed, Discard("", "seen"), check_discarded_once_or_not),
    "discard a dead letter": (dead_letter, Discard(""), check_discarded_once_or_not),
    "release": (parked, Release(""), check_released_once_or_not),
    "taken": (in_doubt, DecideOffer("", Decision.TAKEN), check_decided_once_or_not),
    "run here": (in_doubt, DecideOffer("", Decision.RUN_HERE), check_decided_once_or_not),
}  # fmt: skip


async def run_until_killed(site: Site, action, writes: int, *, confirms: bool) -> bool:
    """Do an action, and kill the node after ``writes`` writes. False: it made fewer writes."""
    journal = site.stage.journal
    journal.writes_left, journal.confirms_last_write = writes, confirms
    acting = asyncio.ensure_future(site.act(action))
    await asyncio.sleep(0)
    if not getattr(action, "cut", False):
        for release in site.releases:
            release.set()
    await until(lambda: journal.ended.is_set() or (acting.done() and site.is_quiet()))
    await settle(3)
    killed = journal.ended.is_set()
    site.stage.crash()
    acting.cancel()
    return killed


@pytest.mark.parametrize("confirms", [True, False])
@pytest.mark.parametrize("asks_again", [True, False])
@pytest.mark.parametrize("name", SCENARIOS)
async def test_an_action_has_happened_once_or_not_at_all(name, asks_again, confirms):
    make, action, check = SCENARIOS[name]
    writes, killed = 0, True
    while killed:
        writes += 1
        site = await make()
        action = msgspec.structs.replace(action, run=site.run_id)
        killed = await run_until_killed(site, action, writes, confirms=confirms)
        await site.start()
        if asks_again:
            try:
                await site.act(action)
            except ActionRefused as refusal:  # the run has gone on and ended meanwhile
                assert isinstance(action, (Cancel, DecideOffer)), refusal
        await until(site.is_quiet)
        await until(lambda site=site: not site.stage.load.in_flight)
        await settle()
        check_facts(site)
        check(site, asks_again)
        await site.stage.node.drain()
    assert writes > 1
