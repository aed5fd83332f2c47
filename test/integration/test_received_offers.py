"""Which offers a node takes, and what its refusals mean for the sender."""

from __future__ import annotations

import msgspec
import pytest

from engine_stage import SILENT, Stage, config, nodes, peer, until
from fractal_rm.adapters.memory import described_node
from fractal_rm.config.model import Bounds
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Offered, OfferInDoubt
from fractal_rm.domain.flow import definition_digest
from fractal_rm.domain.handoff.messages import NoAnswer, OfferRefused, PlainPeer
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.refusals import (
    Busy,
    Forgotten,
    OtherBoot,
    OtherDefinition,
    OtherStore,
    Paused,
    RefusedBefore,
    SameNodeId,
    UnknownFlow,
)
from fractal_rm.domain.state import State
from joined_stages import joined

RUN, OTHER_RUN = "01M87NTQZMXFEQPS51973PM0F5", "01M87NTQZMXFEQPS51973PM0F6"


def addressed_to(stage, **changes) -> dict[str, object]:
    """The keys of an offer that is addressed to the present boot of a stage."""
    me = stage.node.describe()
    return {"run": RUN, "epoch": 1, "sender": "2", "store": me.store, "boot": me.boot, **changes}


async def refusal_of(stage, flow="1", **keys):
    """The refusal of an offer."""
    with pytest.raises(Exception) as caught:
        await stage.offer(flow, **addressed_to(stage, **keys))
    return caught.value


# --- the receiver ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("flow", "keys", "kind", "offer"),
    [
        ("99", {}, UnknownFlow, (RUN, 1)),
        ("1", {"definition": "another"}, OtherDefinition, (RUN, 1)),
        ("1", {"sender": "1"}, SameNodeId, (RUN, 1)),
        ("1", {"boot": "an earlier one"}, OtherBoot, (RUN, 1)),
        ("1", {"store": "a lost one"}, OtherStore, (RUN, 1)),
        ("1", {"age_ms": 10 * 86_400_000}, Forgotten, (RUN, 1)),
        ("99", {"boot": "", "store": ""}, UnknownFlow, None),
    ],
)
async def test_a_refusal_names_the_offer_if_its_copies_are_refused_as_well(flow, keys, kind, offer):
    async with Stage() as stage:
        refusal = await refusal_of(stage, flow, **keys)
        assert isinstance(refusal, kind)
        assert refusal.refused_offer == offer
        assert stage.disk.runs == {}


async def test_an_offer_with_the_same_definition_of_the_flow_is_accepted_wherever_the_flow_stands():
    moved = {
        flow.id: msgspec.structs.replace(
            flow,
            line=flow.line + 7,
            steps=tuple(msgspec.structs.replace(step, line=step.line + 7) for step in flow.steps),
        )
        for flow in config().flows.values()
    }
    async with Stage(flows=moved) as stage:
        digest = definition_digest(config().flows["1"], config().flows)
        accepted = await stage.offer("1", **addressed_to(stage, definition=digest))
        assert accepted.epoch == 1


async def test_a_copy_of_a_refused_offer_is_refused_even_if_the_node_would_take_the_run_now():
    async with Stage() as stage:
        stage.node.pause(True)
        assert isinstance(await refusal_of(stage), Paused)
        stage.node.pause(False)
        assert isinstance(await refusal_of(stage), RefusedBefore)
        accepted = await stage.offer("1", **addressed_to(stage, epoch=2))
        assert (accepted.run, accepted.epoch) == (RUN, 2)


async def test_a_busy_node_refuses_an_offer_for_good():
    async with Stage(bounds=Bounds(max_waiting_runs=0)) as stage:
        refusal = await refusal_of(stage)
        assert isinstance(refusal, Busy)
        assert refusal.refused_offer == (RUN, 1)


async def test_after_too_many_refusals_the_node_has_another_boot(monkeypatch):
    monkeypatch.setattr("fractal_rm.engine.offer_memory.MAX_REFUSED", 2)
    async with Stage() as stage:
        keys, boot = addressed_to(stage), stage.node.describe().boot
        for epoch in (1, 2, 3):
            with pytest.raises(UnknownFlow):
                await stage.offer("99", **{**keys, "epoch": epoch})
        assert stage.node.describe().boot != boot
        for epoch in (1, 2, 3):
            with pytest.raises(OtherBoot):
                await stage.offer("1", **{**keys, "epoch": epoch})


async def test_after_very_many_offers_the_node_has_another_boot_and_still_gives_old_receipts(
    monkeypatch,
):
    monkeypatch.setattr("fractal_rm.engine.offer_memory.MAX_ACCEPTED", 2)
    monkeypatch.setattr("fractal_rm.engine.offer_memory.MAX_RECENT", 1)
    async with Stage() as stage:
        keys = addressed_to(stage)
        for end in "567":
            accepted = await stage.offer("1", **{**addressed_to(stage), "run": RUN[:-1] + end})
            assert not accepted.duplicate
        assert stage.node.describe().boot != keys["boot"]
        repeated = await stage.offer("1", **keys)
        assert (repeated.run, repeated.duplicate) == (RUN, True)


async def test_a_restarted_node_gives_the_receipt_of_its_earlier_boot_again():
    first_stage = Stage()
    async with first_stage:
        keys = addressed_to(first_stage)
        await first_stage.offer("1", **keys)
    async with Stage(first_stage.disk) as restarted:
        repeated = await restarted.offer("1", **keys, age_ms=1_000)
        assert (repeated.run, repeated.epoch, repeated.duplicate) == (RUN, 1, True)
        with pytest.raises(OtherBoot):
            await restarted.offer("1", **{**keys, "run": OTHER_RUN})


# --- the sender --------------------------------------------------------------------------------


def certain(code: str, status: int = 503) -> OfferRefused:
    return OfferRefused(f"node 2 answered {code}", status, code, certain=True)


@pytest.mark.parametrize("code", ["draining", "paused", "busy", "other-definition", "a later one"])
async def test_a_certain_refusal_ends_the_doubt_and_the_run_is_executed_here(monkeypatch, code):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with Stage() as stage:
        stage.balancer.answer, stage.peers.kinds["2"] = "2", described_node()
        stage.peers.answer_offer = peer(SILENT, certain(code))
        outcome = await stage.run("3")
        assert (outcome.state, outcome.reason) == (State.SUCCEEDED, f"node 2 answered {code}")
        assert len(stage.peers.offers) == 2
        assert [offer.age_ms for offer in stage.peers.sent] == [None, 0]


async def test_after_a_restart_of_the_peer_the_run_is_offered_under_a_new_epoch():
    async with Stage() as stage:
        stage.balancer.answer, stage.peers.kinds["2"] = "2", described_node(boot="first")

        async def restarted(*_):
            stage.peers.kinds["2"] = described_node(boot="second")
            stage.peers.answer_offer = peer("receipt")
            return certain("other-boot", 409)

        stage.peers.answer_offer = restarted
        run = (await stage.send("1")).run
        assert (await stage.wait_for_outcome(run)).state is State.HANDED_OFF
        offered = [fact for fact in stage.disk.facts(run) if isinstance(fact, Offered)]
        assert [(fact.epoch, fact.boot) for fact in offered] == [(1, "first"), (2, "second")]


async def test_a_peer_that_lost_its_state_folder_is_not_asked_again(monkeypatch):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with Stage() as stage:
        stage.balancer.answer, stage.peers.kinds["2"] = "2", described_node(store="first")

        async def lose(*_):
            stage.peers.kinds["2"] = described_node(store="second")
            return SILENT

        stage.peers.answer_offer = lose
        outcome = await stage.run("3")
        assert outcome.state is State.UNKNOWN
        assert "which has lost its state folder since" in outcome.reason
        assert len(stage.peers.offers) == 1


async def test_nodes_conf_is_believed_if_it_names_this_program_and_another_one_answers():
    async with Stage(nodes=nodes(peer="fractal")) as stage:
        stage.balancer.answer, stage.peers.kinds["2"] = "2", PlainPeer()
        outcome = await stage.run("1")
        assert outcome.state is State.SUCCEEDED
        assert "another program than nodes.conf says" in outcome.reason
        assert stage.peers.offers == []


async def test_three_nodes_that_name_each_other_execute_a_run_once_after_one_hop():
    stages = joined("a", "b", "c")
    for stage, next_node in zip(stages.values(), ("b", "c", "a"), strict=True):
        await stage.node.start()
        stage.balancer.answer = next_node
    run = (await stages["a"].send("1")).run
    await stages["a"].wait_for_outcome(run)
    assert (await stages["b"].wait_for_outcome(run)).state is State.SUCCEEDED
    assert [len(stage.called_endpoints()) for stage in stages.values()] == [0, 3, 0]
    for stage in stages.values():
        await stage.node.drain()


# --- runs in doubt -----------------------------------------------------------------------------


async def in_doubt(stage) -> str:
    """A run that node 2 may have, and cannot be asked about now. Returns the id of the run."""
    stage.balancer.answer, stage.peers.kinds["2"] = "2", described_node()

    async def vanish(*_):
        stage.peers.kinds["2"] = NoAnswer("no route to the machine", sent=False)
        return SILENT

    stage.peers.answer_offer = vanish
    run = (await stage.send("3")).run
    await until(lambda: "OfferInDoubt" in stage.facts(run))
    return run


async def test_a_run_in_doubt_says_why_and_since_when_and_continues_when_the_peer_is_back():
    async with Stage() as stage:
        run = await in_doubt(stage)
        doubts = [fact for fact in stage.disk.facts(run) if isinstance(fact, OfferInDoubt)]
        assert [fact.reason for fact in doubts] == [
            "node 2 may have the run, but did not identify itself: no route to the machine"
        ]
        assert stage.state(run) is State.OFFERED
        stage.peers.kinds["2"], stage.peers.answer_offer = described_node(), peer("receipt")
        stage.queue.deferred.recall(run)
        assert (await stage.wait_for_outcome(run)).state is State.HANDED_OFF


@pytest.mark.parametrize(
    ("decision", "state", "calls", "reason"),
    [
        (Decision.TAKEN, State.HANDED_OFF, [], "ann decided that node 2 has the run"),
        (
            Decision.RUN_HERE,
            State.SUCCEEDED,
            ["once/1", "b/1"],
            "ann decided to execute the run here, although node 2 may have it",
        ),
    ],
)
async def test_an_operator_decides_about_a_run_in_doubt(decision, state, calls, reason):
    async with Stage() as stage:
        run = await in_doubt(stage)
        assert stage.node.resolve(run, decision, "ann")
        outcome = await stage.wait_for_outcome(run)
        assert (outcome.state, outcome.reason) == (state, reason)
        assert stage.called_endpoints() == calls
        deciding = [fact for fact in stage.disk.facts(run) if getattr(fact, "actor", None) == "ann"]
        assert [fact.cause for fact in deciding] == [Cause.OPERATOR]
        assert not stage.node.resolve(run, decision, "ann")


async def test_a_run_that_is_not_in_doubt_cannot_be_decided():
    async with Stage() as stage:
        release = stage.block_calls("slow/1")
        run = (await stage.send("4")).run
        assert not stage.node.resolve(run, Decision.RUN_HERE, "ann")
        assert not stage.node.resolve(RUN, Decision.TAKEN, "ann")
        release.set()
