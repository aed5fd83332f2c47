"""Replies on the response topic of a trigger, and the metadata and time of hand-offs."""

from __future__ import annotations

import json

import msgspec
import pytest

from engine_stage import URL, KnownHttpPeers, ManualClock, Stage, config, until
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import PublishFailed
from fractal_rm.domain.flow import QueueSettings
from fractal_rm.domain.handoff.messages import NoAnswer, PlainPeer, Receipt
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, TriggerMetadata, TriggerSource
from fractal_rm.engine import reply
from fractal_rm.engine.node import Node
from fractal_rm.engine.ports import ReadinessCheck

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def send_for_reply(stage, flow="1", *, metadata=None, **keys):
    """Send a trigger with a response topic, as MQTT 5 clients do. Returns the id of the run."""
    body = json.dumps({"id_flow": flow, "payload": "p", **keys}).encode()
    metadata = metadata or TriggerMetadata(reply_topic="answers", correlation=b"7")
    accepted = await stage.node.receive(Arrival(TriggerSource.MQTT, body, metadata=metadata))
    return accepted.run


def replies(stage):
    """The topic, content and correlation data of each published reply."""
    return [
        (topic, json.loads(body), correlation)
        for topic, body, correlation in stage.publisher.published
    ]


async def final_state(stage, run_id):
    await until(lambda: stage.state(run_id).final)
    return stage.state(run_id)


@pytest.fixture
def short_pauses(monkeypatch):
    """Make the pauses before retries very short."""
    monkeypatch.setattr(reply, "FIRST_RETRY_S", 0.001)
    monkeypatch.setattr(reply, "MAX_RETRY_S", 0.001)


async def test_the_reply_of_a_run_is_published_with_its_correlation_data():
    async with Stage() as stage:
        run_id = await send_for_reply(stage)
        assert await final_state(stage, run_id) is State.SUCCEEDED
        content = {"run": run_id, "state": "succeeded", "reply": "from a/1"}
        assert replies(stage) == [("answers", content, b"7")]
        assert stage.facts(run_id)[-2:] == ["Replying", "Settled"]


async def test_without_a_response_topic_no_reply_is_published():
    async with Stage() as stage:
        await stage.run()
        assert replies(stage) == []


async def test_the_reply_of_a_failed_run_has_its_reason():
    async with Stage() as stage:
        stage.set_answer("b/1", "broken", status=500)
        run_id = await send_for_reply(stage)
        assert await final_state(stage, run_id) is State.FAILED
        ((_, content, _),) = replies(stage)
        assert content["state"] == "failed"
        assert "status 500" in content["reason"]
        assert "reply" not in content


async def test_the_reply_of_a_run_that_was_handed_off_has_the_state_handed_off():
    async with Stage() as stage:

        async def take(_node, offer):
            return Receipt(offer.run, offer.epoch)

        stage.peers.answer_offer, stage.balancer.answer = take, "3"
        run_id = await send_for_reply(stage)
        assert await final_state(stage, run_id) is State.HANDED_OFF
        ((_, content, _),) = replies(stage)
        assert (content["state"], content["reason"]) == (
            "handed-off",
            "node 3 has accepted the run",
        )


async def test_a_reply_is_published_when_the_broker_is_back(short_pauses):
    async with Stage() as stage:
        stage.publisher.down = True
        run_id = await send_for_reply(stage)
        await until(lambda: "Replying" in stage.facts(run_id))
        assert not stage.state(run_id).final
        stage.publisher.down = False
        assert await final_state(stage, run_id) is State.SUCCEEDED
        assert len(replies(stage)) == 1
        assert stage.called_endpoints() == ["a/1", "b/1", "a/1"]  # no call was repeated


async def test_after_a_crash_the_reply_is_published_and_no_call_is_made_again(short_pauses):
    stage = Stage()
    await stage.node.start()
    stage.publisher.down = True
    stage.set_answer("b/1", "broken", status=500)
    run_id = await send_for_reply(stage)
    await until(lambda: "Replying" in stage.facts(run_id))
    stage.node.pause(True)
    stage.crash()
    async with Stage(stage.disk, stage.clock) as restarted:
        assert await final_state(restarted, run_id) is State.FAILED
        ((_, content, _),) = replies(restarted)
        assert "status 500" in content["reason"]
        assert restarted.called_endpoints() == []


async def test_a_run_that_crashes_before_its_reply_does_not_become_a_dead_letter(short_pauses):
    stage = Stage(balancer=None)
    stage.publisher.down = True
    await stage.node.start()
    run_id = await send_for_reply(stage)
    await until(lambda: "Replying" in stage.facts(run_id))
    for _ in range(4):
        stage.node.pause(True)  # so that the crashed stage does not continue
        stage.crash()
        stage = Stage(stage.disk, stage.clock, balancer=None)
        stage.publisher.down = True
        await stage.node.start()
        restarts = stage.facts(run_id).count("Restarted")
        await until(lambda stage=stage, n=restarts: stage.facts(run_id).count("Restarted") > n)
    stage.publisher.down = False
    assert await final_state(stage, run_id) is State.SUCCEEDED
    assert len(replies(stage)) == 1
    await stage.node.drain()


async def test_the_reply_of_a_run_that_is_dead_after_crashes_names_the_crashes_as_the_reason():
    stage = Stage(bounds=Bounds(max_attempts=1))
    stage.block_calls("a/1")
    await stage.node.start()
    run_id = await send_for_reply(stage)
    await until(lambda: stage.called_endpoints() == ["a/1"])
    stage.crash()
    async with Stage(stage.disk, stage.clock, bounds=Bounds(max_attempts=1)) as restarted:
        assert await final_state(restarted, run_id) is State.DEAD
        ((_, content, _),) = replies(restarted)
        assert content["state"] == "dead"
        assert "the run was in flight 1 times" in content["reason"]
        assert restarted.called_endpoints() == []


async def test_a_run_with_an_unpublished_reply_is_never_parked_as_too_old(short_pauses):
    stage = Stage()
    await stage.node.start()
    stage.publisher.down = True
    run_id = await send_for_reply(stage)
    await until(lambda: "Replying" in stage.facts(run_id))
    stage.node.pause(True)
    stage.crash()
    stage.clock.ms += 2 * Bounds().recovery_max_age_s * 1000
    async with Stage(stage.disk, stage.clock) as restarted:
        assert await final_state(restarted, run_id) is State.SUCCEEDED
        assert len(replies(restarted)) == 1


async def test_a_reply_that_the_broker_refuses_is_not_retried_and_the_reason_has_the_error():
    async with Stage() as stage:

        async def refuse(*_, **__):
            raise PublishFailed("reason code 0x87", final=True)

        stage.publisher.publish = refuse
        run_id = await send_for_reply(stage)
        assert await final_state(stage, run_id) is State.SUCCEEDED
        settled = stage.disk.facts(run_id)[-1]
        assert settled.reason.endswith("the reply could not be published: reason code 0x87")
        assert "reply_lost" in stage.telemetry.events


async def test_a_run_with_an_internal_error_gets_a_reply_and_ends_even_if_the_reply_fails_too():
    async with Stage() as stage:

        async def fail(*_, **__):
            raise RuntimeError("a bug")

        stage.balancer.ask = fail
        run_id = await send_for_reply(stage)
        assert await final_state(stage, run_id) is State.DEAD
        ((_, content, _),) = replies(stage)
        assert (content["state"], "a bug" in content["reason"]) == ("dead", True)
        stage.publisher.publish = fail
        run_id = await send_for_reply(stage)
        assert await final_state(stage, run_id) is State.DEAD
        assert "reply_failed" in stage.telemetry.events


async def test_the_number_of_attempts_to_publish_a_reply_is_bounded(short_pauses, monkeypatch):
    monkeypatch.setattr(reply, "MAX_TRIES", 3)
    async with Stage() as stage:
        stage.publisher.down = True
        run_id = await send_for_reply(stage)
        assert await final_state(stage, run_id) is State.SUCCEEDED
        assert "reply_lost" in stage.telemetry.events


# --- runs that end in the queue -----------------------------------------------------------------


def flow_4_with(queueing):
    """Flow 4, whose component is slow, with these queue settings."""
    flows = config().flows
    return {"4": msgspec.structs.replace(flows["4"], queueing=queueing)}


async def test_the_reply_of_a_superseded_run_names_the_newer_run():
    async with Stage(flows=flow_4_with(QueueSettings(limit=1, latest="'all'"))) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("4")
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        older = await send_for_reply(stage, "4")
        newer = (await stage.send("4")).run
        assert await final_state(stage, older) is State.SUPERSEDED
        reason = f"the newer run {newer} replaces this run (LATEST)"
        assert replies(stage) == [
            ("answers", {"run": older, "state": "superseded", "reason": reason}, b"7")
        ]
        assert stage.facts(older) == ["Accepted", "Replying", "Settled"]
        release.set()


async def test_the_reply_of_a_stale_run_says_how_long_the_run_has_waited():
    clock = ManualClock()
    async with Stage(
        clock=clock, flows=flow_4_with(QueueSettings(limit=1, stale_ms=60_000))
    ) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("4")
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        late = await send_for_reply(stage, "4")
        clock.ms += 60_000
        release.set()
        assert await final_state(stage, late) is State.EXPIRED
        ((_, content, _),) = replies(stage)
        assert content["reason"] == "the run waited for more than 60 s to begin"
        assert "reply" not in content


async def test_a_run_that_ended_in_the_queue_uses_room_until_its_reply_is_acknowledged(
    short_pauses,
):
    async with Stage(flows=flow_4_with(QueueSettings(limit=1, latest="'all'"))) as stage:
        release = stage.block_calls("slow/1")
        await stage.send("4")
        await until(lambda: stage.called_endpoints() == ["slow/1"])
        stage.publisher.down = True
        older = await send_for_reply(stage, "4")
        await stage.send("4")
        await until(lambda: "Replying" in stage.facts(older))
        load = stage.load
        assert (load.waiting, load.in_flight) == (2, 1)
        stage.publisher.down = False
        assert await final_state(stage, older) is State.SUPERSEDED
        await until(lambda: load.waiting == 1)
        assert len(replies(stage)) == 1
        release.set()


async def test_after_a_crash_the_reply_of_a_superseded_run_is_published_and_the_newer_run_succeeds(
    short_pauses,
):
    flows = flow_4_with(QueueSettings(latest="'all'"))
    stage = Stage(flows=flows)
    await stage.node.start()
    stage.node.pause(True)
    stage.publisher.down = True
    older = await send_for_reply(stage, "4")
    newer = (await stage.send("4")).run
    await until(lambda: "Replying" in stage.facts(older))
    stage.crash()
    async with Stage(stage.disk, stage.clock, flows=flows) as restarted:
        restarted.set_answer("slow/1", "quick today")
        assert await final_state(restarted, older) is State.SUPERSEDED
        assert await final_state(restarted, newer) is State.SUCCEEDED
        assert [content["state"] for _, content, _ in replies(restarted)] == ["superseded"]
        assert len(restarted.called_endpoints()) == 1


# --- time ------------------------------------------------------------------------------------


async def test_a_hand_off_contains_the_remaining_time():
    async with Stage() as stage:

        async def take(_node, offer):
            return Receipt(offer.run, offer.epoch)

        stage.peers.answer_offer, stage.balancer.answer = take, "3"
        await stage.run(deadline_ms=5_000)
        await stage.run()
        assert stage.peers.left_ms == [5_000, None]


async def test_a_run_whose_deadline_has_passed_is_not_handed_off():
    async with Stage() as stage:
        ask = stage.balancer.ask

        async def ask_slowly():
            stage.clock.ms += 6_000
            return await ask()

        stage.balancer.ask, stage.balancer.answer = ask_slowly, "3"
        outcome = await stage.run(deadline_ms=5_000)
        assert (outcome.state, stage.peers.offers) == (State.EXPIRED, [])


async def test_a_peer_that_may_have_a_run_gets_another_offer_even_after_the_deadline():
    async with Stage() as stage:

        async def take(_node, offer):
            stage.clock.ms += 6_000
            if len(stage.peers.offers) == 1:
                return NoAnswer("lost", sent=True)
            return Receipt(offer.run, offer.epoch)

        stage.peers.answer_offer, stage.balancer.answer = take, "3"
        outcome = await stage.run(deadline_ms=5_000)
        assert outcome.state is State.HANDED_OFF
        assert stage.peers.left_ms == [5_000, 1]


async def test_the_metadata_of_a_trigger_is_stored_with_its_run():
    async with Stage() as stage:
        metadata = TriggerMetadata(
            left_ms=9_000, reply_topic="a", correlation=b"\x00", traceparent=TRACE
        )
        run_id = await send_for_reply(stage, metadata=metadata)
        accepted = stage.disk.facts(run_id)[0]
        stored = (accepted.budget_ms, accepted.reply_topic, accepted.correlation)
        assert (*stored, accepted.traceparent) == (9_000, "a", b"\x00", TRACE)
        await final_state(stage, run_id)


async def test_a_hand_off_has_the_traceparent_as_a_header():
    async with Stage() as stage:
        stage.set_answer("n3", "{}")
        stage.dependencies.peers = KnownHttpPeers(stage.components)
        stage.balancer.answer = "3"
        run_id = await send_for_reply(
            stage, metadata=TriggerMetadata(left_ms=9_000, traceparent=TRACE)
        )
        await until(lambda: stage.components.requests)
        request = stage.components.requests[0]
        assert request.headers["traceparent"] == TRACE
        assert json.loads(request.body)["deadline_ms"] == 9_000
        assert json.loads(request.body)["run"] == run_id


async def test_a_receipt_may_have_a_byte_order_mark():
    async with Stage() as stage:

        async def answer(request):
            offer = json.loads(request.body)
            receipt = json.dumps({"run": offer["run"], "epoch": offer["epoch"]}).encode()
            return HttpResponse(202, b"", b"\xef\xbb\xbf" + receipt)

        stage.components.answers[f"{URL}/n3"] = answer
        stage.dependencies.peers = KnownHttpPeers(stage.components)
        stage.balancer.answer = "3"
        outcome = await stage.run()
        assert (outcome.state, outcome.reason) == (State.HANDED_OFF, "node 3 has accepted the run")


async def test_a_run_is_not_handed_off_to_a_node_that_redirects_the_offer():
    async with Stage() as stage:
        stage.set_answer("n2", "", 308, Location="http://10.0.0.2/n2/")
        stage.dependencies.peers = KnownHttpPeers(stage.components, PlainPeer())
        stage.balancer.answer = "2"
        outcome = await stage.run()
        assert outcome.state is State.SUCCEEDED
        assert "node 2 answered 308, pointing to http://10.0.0.2/n2/" in outcome.reason
        assert stage.called_endpoints() == ["n2", "a/1", "b/1", "a/1"]


async def test_a_hand_off_without_time_limit_or_trace_has_no_keys_for_them():
    async with Stage() as stage:
        stage.set_answer("n3", "{}")
        stage.dependencies.peers = KnownHttpPeers(stage.components)
        stage.balancer.answer = "3"
        await stage.send()
        await until(lambda: stage.components.requests)
        request = stage.components.requests[0]
        assert "traceparent" not in request.headers
        assert set(json.loads(request.body)) == {
            "payload", "id_flow", "run", "epoch", "sender", "is_load_balancing", "definition",
            "origin",
        }  # fmt: skip


async def test_a_way_in_that_is_not_reopened_gets_the_new_configuration():
    class CountingWayIn:
        takes_over = False

        def __init__(self):
            self.reconfigurations = 0

        async def start(self, _predecessor):
            pass

        async def stop(self):
            pass

        def status(self):
            return ReadinessCheck("way", ok=True, text="")

        def reconfigured(self):
            self.reconfigurations += 1

    stage, ways_in = Stage(), []

    def make(_config, _intake):
        ways_in.append(CountingWayIn())
        return ways_in[-1]

    stage.node = Node(stage.dependencies, {"mqtt": make, "schedules": make})
    async with stage:
        config = stage.dependencies.config
        await stage.node.reconfigure(msgspec.structs.replace(config, flows={}))
        assert [way.reconfigurations for way in ways_in] == [1, 1]
        mqtt = msgspec.structs.replace(config.mqtt, topic="another")
        await stage.node.reconfigure(msgspec.structs.replace(config, mqtt=mqtt))
        # The third way in was made for the changed MQTT settings.
        assert [way.reconfigurations for way in ways_in] == [1, 2, 0]
