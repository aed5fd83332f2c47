"""Offers that arrive more than once, and refusals that do not show what happened to an offer."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from engine_stage import SILENT, Stage, peer, until
from fractal_rm.adapters.memory import described_node
from fractal_rm.config.model import Bounds
from fractal_rm.domain.facts import Offered
from fractal_rm.domain.handoff.messages import CODE_PREFIX, Offer, read_refusal
from fractal_rm.domain.handoff.moving import can_move
from fractal_rm.domain.handoff.sender import is_not_taken
from fractal_rm.domain.refusals import JournalUnavailable, SameNodeId
from fractal_rm.domain.state import State

RUN, OTHER_RUN = "01M87NTQZMXFEQPS51973PM0F5", "01M87NTQZMXFEQPS51973PM0F6"


def addressed_to(stage, **changes) -> dict[str, object]:
    """The keys of an offer that is addressed to the present boot of a stage."""
    me = stage.node.describe()
    return {"run": RUN, "epoch": 1, "sender": "2", "store": me.store, "boot": me.boot, **changes}


async def test_while_a_node_returns_a_run_its_sender_still_gets_the_receipt(monkeypatch):
    monkeypatch.setattr("fractal_rm.domain.handoff.sender.pause_s", lambda *_: 0.001)
    async with Stage(bounds=Bounds(max_inflight_runs=1)) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("4")
        await stage.offer("1", **addressed_to(stage))
        stage.peers.kinds["2"], stage.peers.answer_offer = described_node(), peer(SILENT)
        stage.node.set_draining(True)
        release.set()
        await until(lambda: stage.state(RUN) is State.OFFERED)
        [offered] = [fact for fact in stage.disk.facts(RUN) if isinstance(fact, Offered)]
        assert (offered.node, offered.run) == ("2", f"{RUN}~2")
        repeated = await stage.offer("1", **addressed_to(stage, age_ms=1))
        assert (repeated.run, repeated.epoch, repeated.duplicate) == (RUN, 1, True)


async def test_a_copy_of_an_accepted_offer_gets_the_receipt_even_if_there_is_no_room():
    async with Stage(bounds=Bounds(max_waiting_runs=1)) as stage:
        offer = stage.offer("1", **addressed_to(stage)), stage.offer("1", **addressed_to(stage))
        accepted, repeated = await asyncio.gather(*offer)
        assert [accepted.duplicate, repeated.duplicate] == [False, True]
        assert (accepted.run, repeated.run) == (RUN, RUN)


async def test_with_a_full_disk_a_node_refuses_for_good_what_it_has_not_accepted_since_it_started():
    async with Stage() as stage:
        await stage.offer("1", **addressed_to(stage))
        stage.journal.full = True
        refusals = []
        for changes in ({}, {"run": OTHER_RUN}, {"run": OTHER_RUN, "boot": "an earlier one"}):
            with pytest.raises(JournalUnavailable) as caught:
                await stage.offer("1", **addressed_to(stage, **changes))
            refusals.append(caught.value.refused_offer)
        assert refusals == [None, (OTHER_RUN, 1), None]
        stage.journal.full = False


async def test_a_node_that_offers_a_run_to_itself_gives_no_receipt_for_it():
    async with Stage() as stage:
        run = (await stage.send("1")).run
        await stage.wait_for_outcome(run)
        with pytest.raises(SameNodeId):  # another process of this node may offer it
            await stage.offer("1", **addressed_to(stage, run=run, sender="1"))


@pytest.mark.parametrize(("sender", "may_move"), [("2", True), ("", False)])
async def test_a_received_run_is_returned_or_stays_and_is_never_sent_on(sender, may_move):
    async with Stage(bounds=Bounds(max_inflight_runs=1)) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("4")
        await stage.offer("1", run=RUN, epoch=1, sender=sender)
        assert can_move(stage.node.lifecycle.runs.get(RUN)) is may_move
        release.set()


@pytest.mark.parametrize(
    ("status", "code", "names", "boot", "not_taken"),
    [
        (503, "busy", (RUN, 2), "b", True),
        (503, "busy", (RUN, 1), "b", False),  # a late answer to an earlier offer
        (409, "other-boot", (RUN, 1), "b", False),
        (503, "busy", None, "b", False),  # another copy of the offer may have been accepted
        (503, "journal-unavailable", None, "b", False),
        (503, "busy", None, "", True),  # an older release does not name the offer
        (503, None, None, "b", True),  # of a gateway
        (401, "unauthorized", None, "b", True),
        (409, "other-store", (RUN, 2), "b", True),
        (409, "other-store", (RUN, 1), "b", False),
        (409, "other-store", None, "b", False),
    ],
)
def test_a_refusal_shows_that_a_run_is_not_taken_only_if_it_is_about_this_offer(
    status, code, names, boot, not_taken
):
    offer = Offer(RUN, 2, "1", "1", msgspec.Raw(b"null"), boot=boot)
    problem = {"type": "about:blank" if code is None else CODE_PREFIX + code}
    if names is not None:
        problem["run"], problem["epoch"] = names
    refusal = read_refusal(msgspec.json.encode(problem), offer, status, "no")
    assert is_not_taken(refusal, maybe_taken=False) is not_taken


def test_a_node_that_lost_its_state_folder_may_have_taken_the_run_at_an_earlier_offer():
    offer = Offer(RUN, 1, "1", "1", msgspec.Raw(b"null"), boot="b")
    problem = {"type": CODE_PREFIX + "other-store", "run": RUN, "epoch": 1}
    refusal = read_refusal(msgspec.json.encode(problem), offer, 409, "no")
    assert not is_not_taken(refusal, maybe_taken=True)
