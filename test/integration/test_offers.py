"""Placement of runs, and offers to other nodes, with in-memory adapters."""

from __future__ import annotations

import msgspec
import pytest

from engine_stage import SILENT, UNSENT, Stage, config, peer, until
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ConnectFailed
from fractal_rm.domain.handoff.messages import OfferRefused, Receipt
from fractal_rm.domain.refusals import Draining, JournalUnavailable, OwnRun
from fractal_rm.domain.state import State

RUN_OF_PEER, OTHER_RUN = "01M87NTQZMXFEQPS51973PM0F5", "01M87NTQZMXFEQPS51973PM0F6"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (None, "the balancer chose this node"),
        ("1", "the balancer named node 1, which is this node"),
        ("99", "the balancer named node 99, which nodes.conf does not have"),
        (
            CallTimedOut("no answer within the time limit", sent=True),
            "the balancer failed: no answer",
        ),
        (BadReply("its answer is not {'id_node': …}"), "the balancer failed: its answer is not"),
        (ConnectFailed("refused"), "the balancer failed: refused"),
    ],
)
async def test_a_run_is_executed_here_with_a_reason_if_the_balancer_names_no_other_node(
    answer, reason
):
    async with Stage() as stage:
        stage.balancer.answer = answer
        outcome = await stage.run("1")
        assert outcome.state is State.SUCCEEDED
        assert reason in outcome.reason


async def test_a_run_that_a_peer_handed_off_to_this_node_is_executed_without_the_balancer():
    async with Stage() as stage:
        stage.balancer.answer = "2"
        outcome = await stage.wait_for_outcome((await stage.offer()).run)
        assert outcome.state is State.SUCCEEDED
        assert stage.balancer.ask_count == 0


async def test_the_original_is_not_offered_a_run_of_a_flow_that_it_cannot_run():
    flows = {"12": msgspec.structs.replace(config().flows["2"], id="12")}
    async with Stage(flows=flows) as stage:
        stage.balancer.answer = "4"
        outcome = await stage.run("12")
        assert outcome.state is State.SUCCEEDED
        assert "an original, which cannot run flow 12" in outcome.reason
        assert stage.peers.offers == []


@pytest.mark.parametrize(
    ("node", "answers", "state", "offers"),
    [
        ("2", ["receipt"], State.HANDED_OFF, 1),
        ("2", ["plain"], State.HANDED_OFF, 1),
        ("4", ["plain"], State.HANDED_OFF, 1),
        ("2", [UNSENT], State.SUCCEEDED, 3),
        ("2", [UNSENT, UNSENT, "receipt"], State.HANDED_OFF, 3),
        ("2", [OfferRefused("no", 404)], State.SUCCEEDED, 1),
        ("2", [OfferRefused("busy", 503)], State.SUCCEEDED, 1),
        ("2", [OfferRefused("a gateway's", 502), "plain"], State.SUCCEEDED, 1),
        ("2", [OfferRefused("it broke", 500), "plain"], State.SUCCEEDED, 1),
        ("2", [OfferRefused("a time limit", 408), "plain"], State.SUCCEEDED, 1),
        ("2", [SILENT, "plain"], State.SUCCEEDED, 1),
        ("4", [SILENT, "plain"], State.SUCCEEDED, 1),
        ("4", [UNSENT, SILENT, "plain"], State.SUCCEEDED, 2),
        ("3", [SILENT, SILENT, SILENT, SILENT, "receipt"], State.HANDED_OFF, 5),
        ("3", [SILENT, UNSENT, UNSENT, UNSENT, "receipt"], State.HANDED_OFF, 5),
        ("3", [SILENT, OfferRefused("busy", 503), "receipt"], State.HANDED_OFF, 3),
        ("3", [SILENT, OfferRefused("a proxy's", 404), "receipt"], State.HANDED_OFF, 3),
        ("3", [SILENT, OfferRefused("unknown flow", 404, "unknown-flow")], State.SUCCEEDED, 2),
        ("3", [OfferRefused("a fault", 500), "receipt"], State.HANDED_OFF, 2),
        ("3", ["plain", "receipt"], State.HANDED_OFF, 2),
        ("3", [UNSENT], State.SUCCEEDED, 3),
    ],
)
async def test_an_offered_run_is_handed_off_or_is_executed_here(
    monkeypatch, node, answers, state, offers
):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with Stage() as stage:
        stage.balancer.answer = node
        stage.peers.answer_offer = peer(*answers)
        outcome = await stage.run("2")
        assert outcome.state is state
        assert len(stage.peers.offers) == offers
        assert {epoch for _, _, epoch in stage.peers.offers} == {1}
        assert stage.called_endpoints() == ([] if state is State.HANDED_OFF else ["b/2"])


async def test_a_run_whose_peer_does_not_answer_the_offer_frees_its_slot(monkeypatch):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with Stage(bounds=Bounds(max_inflight_runs=4)) as stage:
        questions = []

        async def ask():
            questions.append(1)
            return "3" if len(questions) <= 20 else None

        stage.balancer.ask = ask
        stage.peers.answer_offer = peer(SILENT)
        in_doubt = [await stage.send("2") for _ in range(20)]
        await until(lambda: len(questions) == 20)
        assert (await stage.run("2")).state is State.SUCCEEDED
        stage.peers.answer_offer = peer("receipt")
        for accepted in in_doubt:
            await until(lambda accepted=accepted: stage.state(accepted.run).final)
        assert {stage.state(accepted.run) for accepted in in_doubt} == {State.HANDED_OFF}


async def test_a_repeated_offer_is_sent_to_the_address_of_the_current_configuration(monkeypatch):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with Stage() as stage:
        stage.balancer.answer = "3"

        async def take(node, offer):
            if node.name != "moved":
                return SILENT
            return Receipt(offer.run, offer.epoch)

        stage.peers.answer_offer = take
        accepted = await stage.send("2")
        await until(lambda: len(stage.peers.offers) > 5)
        nodes = dict(stage.dependencies.config.nodes)
        nodes["3"] = msgspec.structs.replace(nodes["3"], name="moved")
        await stage.node.reconfigure(
            msgspec.structs.replace(stage.dependencies.config, nodes=nodes)
        )
        await until(lambda: stage.state(accepted.run) is State.HANDED_OFF)


async def test_a_repeated_offer_is_refused_as_unavailable_while_the_journal_is_blocked():
    async with Stage() as stage:
        release = stage.block_calls("a/1")
        await stage.offer(run=RUN_OF_PEER, epoch=1)
        stage.journal.full = True
        with pytest.raises(JournalUnavailable):
            await stage.offer(run=RUN_OF_PEER, epoch=1)
        stage.journal.full = False
        release.set()


async def test_an_offer_is_durable_before_it_is_sent():
    async with Stage() as stage:
        stage.balancer.answer = "2"

        async def take(_node, offer):
            assert stage.facts(offer.run) == ["Accepted", "Placed", "Offered"]
            return Receipt(offer.run, offer.epoch)

        stage.peers.answer_offer = take
        assert (await stage.run("1")).state is State.HANDED_OFF


async def test_the_answer_to_a_repeated_offer_is_the_existing_run():
    async with Stage() as stage:
        offer = {"run": RUN_OF_PEER, "epoch": 1, "sender": "2"}
        first = await stage.offer(**offer)
        assert (first.run, first.epoch, first.duplicate) == (RUN_OF_PEER, 1, False)
        await stage.wait_for_outcome(RUN_OF_PEER)
        repeated = await stage.offer(**offer)
        assert (repeated.run, repeated.epoch, repeated.duplicate) == (RUN_OF_PEER, 1, True)
        assert stage.called_endpoints() == ["a/1", "b/1", "a/1"]


async def test_a_draining_node_still_answers_a_repeated_offer():
    stage = Stage()
    async with stage:
        release = stage.block_calls("slow/1")
        await stage.offer("4", run=RUN_OF_PEER, epoch=1)
        stage.node.lifecycle.condition.stopping = True
        repeated = await stage.offer("4", run=RUN_OF_PEER, epoch=1)
        assert repeated.duplicate
        with pytest.raises(Draining):
            await stage.offer("4", run=OTHER_RUN, epoch=1)
        release.set()


async def test_a_node_refuses_an_offer_of_its_own_run_and_executes_it():
    async with Stage() as stage:
        stage.balancer.answer = "2"

        async def offer_back(_node, offer):
            with pytest.raises(OwnRun) as refusal:
                await stage.offer(run=offer.run, epoch=offer.epoch, sender=offer.sender)
            return OfferRefused(str(refusal.value), 409, OwnRun.code)

        stage.peers.answer_offer = offer_back
        outcome = await stage.run("2")
        assert outcome.state is State.SUCCEEDED
        assert stage.called_endpoints() == ["b/2"]
