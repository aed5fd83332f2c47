"""What the sender of a trigger is told at its response topic, and what time it leaves a run."""

from __future__ import annotations

import json

import msgspec
import pytest

from fractal_rm.adapters.peers import HttpPeers
from fractal_rm.config.model import Bounds
from fractal_rm.domain.call import Reply
from fractal_rm.domain.errors import ConnectFailed, PublishFailed
from fractal_rm.domain.flow import Queueing
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, Said, Source
from fractal_rm.engine import reply
from fractal_rm.engine.node import Node
from fractal_rm.engine.ports import Check, Receipt
from worlds import URL, ManualClock, Stage, config, until

TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


async def ask(stage, flow="1", *, said=None, **keys):
    """A trigger by MQTT 5 with a response topic."""
    body = json.dumps({"id_flow": flow, "payload": "p", **keys}).encode()
    said = said or Said(reply_topic="answers", correlation=b"7")
    taken = await stage.node.receive(Arrival(Source.MQTT, body, said=said))
    return taken.run


def told(stage):
    return [
        (topic, json.loads(body), correlation)
        for topic, body, correlation in stage.publisher.published
    ]


async def final(stage, run_id):
    await until(lambda: stage.state(run_id).final)
    return stage.state(run_id)


@pytest.fixture
def patient(monkeypatch):
    """Tries that follow at once."""
    monkeypatch.setattr(reply, "AGAIN_FIRST_S", 0.001)
    monkeypatch.setattr(reply, "AGAIN_AT_MOST_S", 0.001)


async def test_the_reply_of_a_run_is_published_with_its_correlation_data():
    async with Stage() as stage:
        run_id = await ask(stage)
        assert await final(stage, run_id) is State.SUCCEEDED
        content = {"run": run_id, "state": "succeeded", "reply": "from a/1"}
        assert told(stage) == [("answers", content, b"7")]
        assert stage.facts(run_id)[-2:] == ["Replying", "Settled"]


async def test_a_run_without_a_response_topic_tells_nobody():
    async with Stage() as stage:
        await stage.run()
        assert told(stage) == []


async def test_a_failure_is_told_with_its_reason():
    async with Stage() as stage:
        stage.answers("b/1", "broken", status=500)
        run_id = await ask(stage)
        assert await final(stage, run_id) is State.FAILED
        ((_, content, _),) = told(stage)
        assert content["state"] == "failed"
        assert "status 500" in content["reason"]
        assert "reply" not in content


async def test_who_asked_hears_that_a_run_was_handed_off():
    async with Stage() as stage:

        async def take(_node, run, _sender):
            return Receipt(run.id, run.epoch)

        stage.peers.take, stage.balancer.answer = take, "3"
        run_id = await ask(stage)
        assert await final(stage, run_id) is State.HANDED_OFF
        ((_, content, _),) = told(stage)
        assert (content["state"], content["reason"]) == ("handed-off", "node 3 has it")


async def test_a_reply_waits_for_the_broker(patient):
    async with Stage() as stage:
        stage.publisher.down = True
        run_id = await ask(stage)
        await until(lambda: "Replying" in stage.facts(run_id))
        assert not stage.state(run_id).final
        stage.publisher.down = False
        assert await final(stage, run_id) is State.SUCCEEDED
        assert len(told(stage)) == 1
        assert stage.called() == ["a/1", "b/1", "a/1"]  # nothing ran again for it


async def test_after_a_crash_the_reply_is_published_and_no_call_is_made_again(patient):
    stage = Stage()
    await stage.node.start()
    stage.publisher.down = True
    stage.answers("b/1", "broken", status=500)
    run_id = await ask(stage)
    await until(lambda: "Replying" in stage.facts(run_id))
    stage.node.pause(True)
    stage.crash()
    async with Stage(stage.disk, stage.clock) as after:
        assert await final(after, run_id) is State.FAILED
        ((_, content, _),) = told(after)
        assert "status 500" in content["reason"]
        assert after.called() == []


async def test_crashes_while_a_reply_waits_do_not_make_its_run_a_dead_letter(patient):
    stage = Stage(balancer=None)
    stage.publisher.down = True
    await stage.node.start()
    run_id = await ask(stage)
    await until(lambda: "Replying" in stage.facts(run_id))
    for _ in range(4):
        stage.node.pause(True)  # nothing of a process that is gone goes on
        stage.crash()
        stage = Stage(stage.disk, stage.clock, balancer=None)
        stage.publisher.down = True
        await stage.node.start()
        begun = stage.facts(run_id).count("Begun")
        await until(lambda stage=stage, n=begun: stage.facts(run_id).count("Begun") > n)
    stage.publisher.down = False
    assert await final(stage, run_id) is State.SUCCEEDED
    assert len(told(stage)) == 1
    await stage.node.drain()


async def test_who_asked_hears_that_a_run_was_set_aside_for_too_many_crashes():
    stage = Stage(bounds=Bounds(max_attempts=1))
    stage.holds("a/1")
    await stage.node.start()
    run_id = await ask(stage)
    await until(lambda: stage.called() == ["a/1"])
    stage.crash()
    async with Stage(stage.disk, stage.clock, bounds=Bounds(max_attempts=1)) as after:
        assert await final(after, run_id) is State.DEAD
        ((_, content, _),) = told(after)
        assert content["state"] == "dead"
        assert "it was running 1 times" in content["reason"]
        assert after.called() == []


async def test_a_reply_that_is_owed_is_not_too_old_at_the_next_start(patient):
    stage = Stage()
    await stage.node.start()
    stage.publisher.down = True
    run_id = await ask(stage)
    await until(lambda: "Replying" in stage.facts(run_id))
    stage.node.pause(True)
    stage.crash()
    stage.clock.ms += 2 * Bounds().recovery_max_age_s * 1000
    async with Stage(stage.disk, stage.clock) as after:
        assert await final(after, run_id) is State.SUCCEEDED
        assert len(told(after)) == 1


async def test_a_reply_that_the_broker_refuses_is_given_up_and_the_run_says_so():
    async with Stage() as stage:

        async def refuse(*_, **__):
            raise PublishFailed("reason code 0x87", final=True)

        stage.publisher.publish = refuse
        run_id = await ask(stage)
        assert await final(stage, run_id) is State.SUCCEEDED
        settled = stage.disk.facts(run_id)[-1]
        assert settled.reason.endswith("its reply could not be published: reason code 0x87")
        assert "reply_lost" in stage.telemetry.events


async def test_a_fault_of_ours_is_told_and_one_in_telling_it_ends_the_run_all_the_same():
    async with Stage() as stage:

        async def breaks(*_, **__):
            raise RuntimeError("a bug")

        stage.balancer.ask = breaks
        run_id = await ask(stage)
        assert await final(stage, run_id) is State.DEAD
        ((_, content, _),) = told(stage)
        assert (content["state"], "a bug" in content["reason"]) == ("dead", True)
        stage.publisher.publish = breaks
        run_id = await ask(stage)
        assert await final(stage, run_id) is State.DEAD
        assert "reply_broke" in stage.telemetry.events


async def test_a_reply_is_tried_for_an_hour_at_most(patient, monkeypatch):
    monkeypatch.setattr(reply, "MOST_TRIES", 3)
    async with Stage() as stage:
        stage.publisher.down = True
        run_id = await ask(stage)
        assert await final(stage, run_id) is State.SUCCEEDED
        assert "reply_lost" in stage.telemetry.events


# --- ended in line -----------------------------------------------------------------------------


def waiting_by(queueing):
    """Flow 4, whose component is slow, with what it says of how its runs wait."""
    flows = config().flows
    return {"4": msgspec.structs.replace(flows["4"], queueing=queueing)}


async def test_who_asked_hears_that_a_newer_run_was_begun_in_its_place():
    async with Stage(flows=waiting_by(Queueing(limit=1, latest="'all'"))) as stage:
        go = stage.holds("slow/1")
        await stage.send("4")
        await until(lambda: stage.called() == ["slow/1"])
        older = await ask(stage, "4")
        newer = (await stage.send("4")).run
        assert await final(stage, older) is State.SUPERSEDED
        reason = f"run {newer} is newer, and about the same"
        assert told(stage) == [
            ("answers", {"run": older, "state": "superseded", "reason": reason}, b"7")
        ]
        assert stage.facts(older) == ["Accepted", "Replying", "Settled"]
        go.set()


async def test_who_asked_hears_that_a_run_waited_too_long_to_begin():
    clock = ManualClock()
    async with Stage(clock=clock, flows=waiting_by(Queueing(limit=1, stale_ms=60_000))) as stage:
        go = stage.holds("slow/1")
        await stage.send("4")
        await until(lambda: stage.called() == ["slow/1"])
        late = await ask(stage, "4")
        clock.ms += 60_000
        go.set()
        assert await final(stage, late) is State.EXPIRED
        ((_, content, _),) = told(stage)
        assert content["reason"] == "it waited for more than 60 s to begin"
        assert "reply" not in content


async def test_a_run_that_ended_in_line_keeps_its_place_until_the_broker_has_the_reply(patient):
    async with Stage(flows=waiting_by(Queueing(limit=1, latest="'all'"))) as stage:
        go = stage.holds("slow/1")
        await stage.send("4")
        await until(lambda: stage.called() == ["slow/1"])
        stage.publisher.down = True
        older = await ask(stage, "4")
        await stage.send("4")
        await until(lambda: "Replying" in stage.facts(older))
        load = stage.load
        assert (load.waiting, load.in_flight) == (2, 1)
        stage.publisher.down = False
        assert await final(stage, older) is State.SUPERSEDED
        await until(lambda: load.waiting == 1)
        assert len(told(stage)) == 1
        go.set()


async def test_after_a_crash_a_run_that_ended_in_line_is_told_and_stands_in_no_other_s_place(
    patient,
):
    flows = waiting_by(Queueing(latest="'all'"))
    stage = Stage(flows=flows)
    await stage.node.start()
    stage.node.pause(True)
    stage.publisher.down = True
    older = await ask(stage, "4")
    newer = (await stage.send("4")).run
    await until(lambda: "Replying" in stage.facts(older))
    stage.crash()
    async with Stage(stage.disk, stage.clock, flows=flows) as after:
        after.answers("slow/1", "quick today")
        assert await final(after, older) is State.SUPERSEDED
        assert await final(after, newer) is State.SUCCEEDED
        assert [content["state"] for _, content, _ in told(after)] == ["superseded"]
        assert len(after.called()) == 1


# --- time ------------------------------------------------------------------------------------


async def test_a_hand_off_says_how_much_time_is_left():
    async with Stage() as stage:

        async def take(_node, run, _sender):
            return Receipt(run.id, run.epoch)

        stage.peers.take, stage.balancer.answer = take, "3"
        await stage.run(deadline_ms=5_000)
        await stage.run()
        assert stage.peers.left_ms == [5_000, None]


async def test_a_run_whose_time_has_ended_is_not_handed_off():
    async with Stage() as stage:
        asked = stage.balancer.ask

        async def slowly(route):
            stage.clock.ms += 6_000
            return await asked(route)

        stage.balancer.ask, stage.balancer.answer = slowly, "3"
        outcome = await stage.run(deadline_ms=5_000)
        assert (outcome.state, stage.peers.offers) == (State.EXPIRED, [])


async def test_a_peer_that_may_have_it_is_asked_even_when_the_time_has_ended():
    async with Stage() as stage:

        async def take(_node, run, _sender):
            stage.clock.ms += 6_000
            if len(stage.peers.offers) == 1:
                raise_ = ConnectFailed("lost")
                raise_.sent = True
                raise raise_
            return Receipt(run.id, run.epoch)

        stage.peers.take, stage.balancer.answer = take, "3"
        outcome = await stage.run(deadline_ms=5_000)
        assert outcome.state is State.HANDED_OFF
        assert stage.peers.left_ms == [5_000, 1]


async def test_what_was_said_of_a_trigger_is_kept_with_its_run():
    async with Stage() as stage:
        said = Said(left_ms=9_000, reply_topic="a", correlation=b"\x00", traceparent=TRACE)
        run_id = await ask(stage, said=said)
        accepted = stage.disk.facts(run_id)[0]
        kept = (accepted.budget_ms, accepted.reply_topic, accepted.correlation)
        assert (*kept, accepted.traceparent) == (9_000, "a", b"\x00", TRACE)
        await final(stage, run_id)


async def test_a_trace_goes_along_in_a_hand_off_as_a_header():
    async with Stage() as stage:
        stage.answers("n3", "{}")
        stage.world.peers, stage.balancer.answer = HttpPeers(stage.components), "3"
        run_id = await ask(stage, said=Said(left_ms=9_000, traceparent=TRACE))
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
            return Reply(202, b"", b"\xef\xbb\xbf" + receipt)

        stage.components.answers[f"{URL}/n3"] = answer
        stage.world.peers, stage.balancer.answer = HttpPeers(stage.components), "3"
        outcome = await stage.run()
        assert (outcome.state, outcome.reason) == (State.HANDED_OFF, "node 3 has it")


async def test_a_run_is_not_handed_to_a_node_that_points_elsewhere():
    async with Stage() as stage:
        stage.answers("n2", "", 308, Location="http://10.0.0.2/n2/")
        stage.world.peers, stage.balancer.answer = HttpPeers(stage.components), "2"
        outcome = await stage.run()
        assert outcome.state is State.SUCCEEDED
        assert "node 2 answered 308, pointing to http://10.0.0.2/n2/" in outcome.reason
        assert stage.called() == ["n2", "a/1", "b/1", "a/1"]


async def test_a_hand_off_without_limit_or_trace_is_as_it_always_was():
    async with Stage() as stage:
        stage.answers("n3", "{}")
        stage.world.peers, stage.balancer.answer = HttpPeers(stage.components), "3"
        await stage.send()
        await until(lambda: stage.components.requests)
        request = stage.components.requests[0]
        assert "traceparent" not in request.headers
        assert set(json.loads(request.body)) == {
            "payload", "id_flow", "run", "epoch", "sender", "is_load_balancing",
        }  # fmt: skip


async def test_a_way_in_that_stays_hears_of_another_configuration():
    class Way:
        takes_over = False

        def __init__(self):
            self.heard = 0

        async def start(self, _before):
            pass

        async def stop(self):
            pass

        def status(self):
            return Check("way", ok=True, text="")

        def reconfigured(self):
            self.heard += 1

    stage, made = Stage(), []

    def make(_config, _intake):
        made.append(Way())
        return made[-1]

    stage.node = Node(stage.world, {"mqtt": make, "schedules": make})
    async with stage:
        config = stage.world.config
        await stage.node.reconfigure(msgspec.structs.replace(config, flows={}))
        assert [way.heard for way in made] == [1, 1]
        mqtt = msgspec.structs.replace(config.mqtt, topic="another")
        await stage.node.reconfigure(msgspec.structs.replace(config, mqtt=mqtt))
        assert [way.heard for way in made] == [1, 2, 0]  # the third is MQTT's new one
