"""Flows that begin at topics, and messages that leave, with real brokers."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager

import pytest
from test_mqtt import Intake, at, intake_at, made, publisher, until

from brokers import Broker
from components import Components
from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.adapters.mqtt import outgoing
from fractal_rm.adapters.mqtt import publisher as publisher_module
from fractal_rm.adapters.mqtt.publisher import MqttPublisher
from fractal_rm.adapters.mqtt.subscriptions import Subscriptions
from fractal_rm.adapters.mqtt.wire import PUBACK
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.call_errors import PublishFailed
from fractal_rm.domain.flow import Flow, Starts
from fractal_rm.domain.refusals import Busy, Malformed
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Taken
from nodes import NodeProcess


def begun_at(**filters):
    """Flows by their ids, and the filters that begin them."""
    return {f: Flow(f, starts=Starts(topics=topics)) for f, topics in filters.items()}


async def send(broker, topic, *bodies, **more):
    async with publisher(broker) as client:
        for body in bodies:
            client.publish(topic, body, qos=1, **more)
        await client._persistent_storage.wait_empty()


def came(way_in):
    return [(arrival.flow_id, arrival.body) for arrival in way_in.intake.arrivals]


@asynccontextmanager
async def listener(broker, topic):
    """Collects what is published on a topic: body and correlation data."""
    heard = []

    def on_message(_client, _topic, body, _qos, properties):
        heard.append((body, properties.get("correlation_data", [None])[0]))

    async with publisher(broker) as client:
        subscribed = asyncio.Event()
        client.on_message = on_message
        client.on_subscribe = lambda *_: subscribed.set()
        client.subscribe(topic, qos=1)
        await asyncio.wait_for(subscribed.wait(), 20)
        yield heard


async def settled(way_in):
    """Until a trigger that is sent now has come, everything before it has."""
    await until(lambda: (None, b"last") in came(way_in))
    way_in.intake.arrivals = [each for each in way_in.intake.arrivals if each.body != b"last"]


# --- what begins flows -----------------------------------------------------------------------


async def test_a_message_starts_the_flows_that_begin_at_its_topic(broker, tmp_path):
    flows = begun_at(a=("factory/+/frame",), b=("other",))
    async with intake_at(broker, tmp_path, flows) as way_in:
        await send(broker, "factory/1/frame", b"{}", retain=False)
        await send(broker, "t/in", b"trigger")
        await until(lambda: len(came(way_in)) == 2)
        assert set(came(way_in)) == {("a", b"{}"), (None, b"trigger")}


async def test_filters_that_overlap_start_each_flow_once(mosquitto, tmp_path):
    flows = begun_at(a=("x/+", "+/y"), b=("+/y",), c=("#",))
    async with intake_at(mosquitto, tmp_path, flows) as way_in:
        await send(mosquitto, "x/y", b"1", b"2")
        await send(mosquitto, "t/in", b"last")
        await settled(way_in)
        mine = [each for each in came(way_in) if each[1] in (b"1", b"2")]
        assert sorted(mine) == [(flow, body) for flow in "abc" for body in (b"1", b"2")]
        assert (None, b"last") not in came(way_in)  # once: the copy for `#` is no trigger


async def test_a_message_is_acknowledged_when_all_of_its_runs_are_durable(mosquitto, tmp_path):
    flows = begun_at(a=("x",), b=("x",))
    async with intake_at(mosquitto, tmp_path, flows) as way_in:
        full, took = [True], []

        async def receive_all(arrivals):
            took.extend(arrival.flow_id for arrival in arrivals)
            return [
                Busy("no room")
                if full[0] and arrival.flow_id == "b"
                else Taken("r", State.ACCEPTED)
                for arrival in arrivals
            ]

        way_in.intake.receive_all = receive_all
        await send(mosquitto, "x", b"1")
        await until(lambda: took == ["a", "b"])
        assert not way_in._link._unanswered._acknowledged
        assert way_in._link._unanswered._count == 1
        full[0] = False
        way_in.intake.room.set()
        await until(lambda: way_in._link._unanswered._count == 0)
        assert took == ["a", "b", "b"]  # what is durable is not taken again


async def test_what_cannot_be_a_trigger_is_set_aside(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path, begun_at(a=("x",))) as way_in:
        way_in.intake.refusal = Malformed("not UTF-8")
        await send(mosquitto, "x", b"\xff")
        await until(lambda: way_in.intake.codes == ["malformed"])
        await until(lambda: way_in._link._unanswered._count == 0)


async def test_a_retained_message_starts_nothing_unless_that_is_wanted(broker, tmp_path):
    await send(broker, "x", b"old", retain=True)
    flows = begun_at(a=("x",))
    async with intake_at(broker, tmp_path, flows, client_id="a") as way_in:
        await send(broker, "x", b"new")
        await until(lambda: ("a", b"new") in came(way_in))
        assert ("a", b"old") not in came(way_in)
    async with intake_at(broker, tmp_path, flows, client_id="b", retained=True) as way_in:
        await until(lambda: ("a", b"old") in came(way_in))


async def test_a_reload_changes_the_subscriptions_and_keeps_the_session(broker, tmp_path):
    flows = begun_at(a=("x", "y"))
    async with intake_at(broker, tmp_path, flows) as way_in:
        link = way_in._link
        flows.clear()
        flows.update(begun_at(a=("y",), b=("z",)))
        way_in.reconfigured()
        await until(lambda: not way_in._changes)
        assert way_in._link is link
        for topic in ("x", "y", "z"):
            await send(broker, topic, topic.encode())
        await send(broker, "t/in", b"last")
        await settled(way_in)
        assert sorted(came(way_in)) == [("a", b"y"), ("b", b"z")]
        assert way_in.intake.codes == []


async def test_what_was_left_out_while_the_node_was_away_is_unsubscribed(broker, tmp_path):
    async with intake_at(broker, tmp_path, begun_at(a=("x", "y"))):
        pass
    async with intake_at(broker, tmp_path, begun_at(a=("y",))) as way_in:
        await send(broker, "x", b"x")
        await send(broker, "y", b"y")
        await send(broker, "t/in", b"last")
        await settled(way_in)
        assert came(way_in) == [("a", b"y")]
        assert way_in.intake.codes == []


async def test_a_message_that_nobody_asks_for_any_more_is_a_dead_letter(broker, tmp_path):
    async with intake_at(broker, tmp_path, begun_at(a=("x",))):
        pass
    await send(broker, "x", b"late")
    async with intake_at(broker, tmp_path, {}) as way_in:
        await until(lambda: way_in.intake.codes == ["unknown-flow"])
        assert [each.body for each in way_in.intake.set_aside_] == [b"late"]


async def test_a_topic_that_the_broker_refuses_is_said_and_triggers_come(tmp_path):
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite t/in\ntopic write fractal-rm/#\ntopic read open\n")
    broker = Broker("mosquitto", tmp_path, f"acl_file {acl}\n").start()
    try:
        async with intake_at(broker, tmp_path, begun_at(a=("open",))) as way_in:
            way_in._flows = lambda: begun_at(a=("$SYS/secret/#",))
            subscriptions = way_in._link.subscriptions
            real = subscriptions._subscribe

            async def refuse(topic_filter, **more):
                return 0x87 if topic_filter.startswith("$SYS") else await real(topic_filter, **more)

            subscriptions._subscribe = refuse  # Mosquitto grants all, and then sends nothing
            way_in.reconfigured()
            await until(lambda: not way_in.status().ok)
            assert "refuses subscriptions to $SYS/secret/#" in way_in.status().text
            assert "topic_refused" in way_in.telemetry.events
            await send(broker, "t/in", b"1")
            await until(lambda: (None, b"1") in came(way_in))
    finally:
        broker.stop()


async def test_the_properties_of_a_message_say_more_of_its_trigger(mosquitto, tmp_path):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with intake_at(mosquitto, tmp_path) as way_in:
        await send(
            mosquitto, "t/in", b"1", message_expiry_interval=30, response_topic="answers",
            correlation_data=b"\x01", content_type="application/cloudevents+json",
            user_property=[("traceparent", trace), ("id", "k")],
        )  # fmt: skip
        await until(lambda: way_in.intake.arrivals)
        (arrival,) = way_in.intake.arrivals
        said = arrival.said
        assert (arrival.key, said.reply_topic, said.correlation) == ("k", "answers", b"\x01")
        assert (said.traceparent, said.content_type) == (trace, "application/cloudevents+json")
        assert 29_000 <= said.left_ms <= 30_000


async def test_time_that_a_message_waits_for_room_is_taken_off(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path) as way_in:
        way_in.intake.refusal = Busy("no room")
        await send(mosquitto, "t/in", b"1")
        await until(lambda: way_in.intake.arrivals)
        before = way_in._clock.steady_ms
        way_in._clock.steady_ms = lambda: before() + 5_000  # asleep or awake
        way_in.intake.refusal = None
        way_in.intake.room.set()
        await until(lambda: len(way_in.intake.arrivals) == 2)
        assert way_in.intake.arrivals[1].waited_ms >= 4_000


# --- a node that is stopped while it connects ---------------------------------------------------


async def test_what_comes_before_the_subscription_is_answered_when_the_node_is_stopped(
    mosquitto, tmp_path
):
    async with intake_at(mosquitto, tmp_path, client_id="node"):
        pass
    await send(mosquitto, "t/in", b"1")
    async with intake_at(mosquitto, tmp_path, client_id="node") as way_in:
        await until(lambda: way_in.intake.arrivals)
    real = Subscriptions.begin

    async def never(*_, **__):
        await asyncio.Event().wait()

    await send(mosquitto, "t/in", b"2")
    Subscriptions.begin = never
    try:
        intake = Intake()
        mqtt = Mqtt(topic="t/in", brokers=at(mosquitto.port), client_id="node")
        stopped = made(mqtt, intake, tmp_path, QuietTelemetry())
        await stopped.start()
        await until(lambda: intake.bodies() == [b"2"])
        await stopped.stop()
    finally:
        Subscriptions.begin = real
    async with intake_at(mosquitto, tmp_path, client_id="node") as way_in:
        await send(mosquitto, "t/in", b"last")
        await until(lambda: way_in.intake.arrivals)
        assert way_in.intake.bodies() == [b"last"]


# --- messages that leave -----------------------------------------------------------------------


async def test_what_is_published_arrives_with_its_correlation_data(broker, tmp_path):
    leaves = MqttPublisher()
    async with intake_at(broker, tmp_path, publisher=leaves), listener(broker, "answers") as heard:
        await leaves.publish("answers", b"one", correlation=b"\x00\xff")
        await leaves.publish("answers", b"two")
        await until(lambda: len(heard) == 2)
        kept = b"\x00\xff" if broker.protocol == "5" else None
        assert heard == [(b"one", kept), (b"two", None)]


async def test_many_are_published_at_once_within_what_the_broker_allows(mosquitto, tmp_path):
    leaves = MqttPublisher()
    held = intake_at(mosquitto, tmp_path, publisher=leaves)
    async with held as way_in, listener(mosquitto, "answers") as heard:
        await asyncio.gather(*(leaves.publish("answers", b"%d" % n) for n in range(300)))
        await until(lambda: len(heard) == 300)
        assert way_in.status().ok


async def test_without_a_connection_nothing_is_published(mosquitto, tmp_path, monkeypatch):
    monkeypatch.setattr(publisher_module, "WAIT_FOR_LINK_S", 0.1)
    leaves = MqttPublisher()
    with pytest.raises(PublishFailed, match="no broker"):
        await leaves.publish("answers", b"1")
    async with intake_at(mosquitto, tmp_path, publisher=leaves) as way_in:
        link = way_in._link
        link.abort()
        with pytest.raises(PublishFailed):
            await link.publish("answers", b"1")
    with pytest.raises(PublishFailed, match="no broker"):
        await leaves.publish("answers", b"1")


@pytest.mark.parametrize("topic", ["", "a/#", "a/+", "a\0b"])
async def test_nothing_is_published_on_what_is_no_topic(mosquitto, tmp_path, topic):
    leaves = MqttPublisher()
    async with intake_at(mosquitto, tmp_path, publisher=leaves) as way_in:
        with pytest.raises(PublishFailed) as caught:
            await leaves.publish(topic, b"1")
        assert caught.value.final
        assert way_in.status().ok


async def test_a_reason_code_of_refusal_fails(tmp_path):
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite t/in\ntopic write fractal-rm/#\n")
    broker = Broker("mosquitto", tmp_path, f"acl_file {acl}\n").start()
    leaves = MqttPublisher()
    try:
        async with intake_at(broker, tmp_path, publisher=leaves):
            with pytest.raises(PublishFailed, match="0x87") as caught:
                await leaves.publish("forbidden", b"1")
            assert caught.value.final
    finally:
        broker.stop()


async def test_what_is_larger_than_the_broker_takes_does_not_cost_the_connection(tmp_path):
    broker = Broker("mosquitto", tmp_path, "max_packet_size 2000\n").start()
    leaves = MqttPublisher()
    try:
        async with intake_at(broker, tmp_path, publisher=leaves) as way_in:
            link = way_in._link
            with pytest.raises(PublishFailed, match="at most 2000 bytes") as caught:
                await leaves.publish("answers", b"x" * 3_000)
            assert caught.value.final
            assert way_in._link is link
    finally:
        broker.stop()


async def test_a_broker_that_does_not_acknowledge_fails_it(mosquitto, tmp_path, monkeypatch):
    monkeypatch.setattr(outgoing, "PUBACK_LIMIT_S", 0.05)
    leaves = MqttPublisher()
    async with intake_at(mosquitto, tmp_path, publisher=leaves) as way_in:
        way_in._link._wire._on_packet[PUBACK] = lambda _data: None
        with pytest.raises(PublishFailed, match="did not acknowledge") as caught:
            await leaves.publish("answers", b"1")
        assert not caught.value.final


async def test_what_is_on_its_way_at_the_end_of_a_connection_leaves_by_the_next(
    mosquitto, tmp_path
):
    leaves = MqttPublisher()
    held = intake_at(mosquitto, tmp_path, publisher=leaves)
    async with held as way_in, listener(mosquitto, "answers") as heard:
        way_in._link._wire._on_packet[PUBACK] = lambda _data: None
        waiting = asyncio.ensure_future(leaves.publish("answers", b"1"))
        await until(lambda: way_in._link._outgoing._waiting and heard)
        way_in._link.abort()
        await waiting
        assert heard == [(b"1", None)] * 2


# --- a real node ---------------------------------------------------------------------------------


@pytest.fixture
def node(tmp_path, mosquitto):
    components = Components()
    made = NodeProcess(tmp_path / "node", components=components.port, broker=mosquitto.port)
    made.components = components
    yield made
    made.stop()
    components.end()


async def request(node, broker, payload):
    message = json.dumps({"id_flow": "2", "payload": payload}).encode()
    await send(broker, node.topic, message, response_topic="answers", correlation_data=b"c")


async def test_a_node_replies_at_the_response_topic(node, mosquitto):
    node.start().wait_connected()
    async with listener(mosquitto, "answers") as heard:
        await request(node, mosquitto, "p")
        await until(lambda: heard)
        ((body, correlation),) = heard
        reply = json.loads(body)
        assert (reply["state"], reply["reply"], correlation) == ("succeeded", '{"ok": true}', b"c")
        assert node.history.run(reply["run"]) is not None


async def test_a_reply_outlives_the_broker_and_a_kill(node, mosquitto):
    def when_told(*_):
        node.components.go_on.wait(60)
        return 200, "at last"

    node.components.answers["/endpoint2"] = when_told
    node.start().wait_connected()
    await request(node, mosquitto, "p")
    await until(lambda: node.components.requests)
    mosquitto.stop()
    node.components.go_on.set()
    (run,) = node.runs()
    kinds = lambda: [type(each.fact).__name__ for each in node.history.run(run.id).facts]  # noqa: E731
    await until(lambda: "Replying" in kinds())
    node.kill()
    mosquitto.start()
    async with listener(mosquitto, "answers") as heard:
        node.start()
        await until(lambda: heard)
        assert json.loads(heard[0][0])["run"] == run.id
    await until(lambda: node.runs(State.SUCCEEDED))
    assert len(node.components.requests) == 1
