"""Messages that start flows by their topic, and published messages, with real brokers."""

from __future__ import annotations

import asyncio
import json

import pytest

from brokers import Broker
from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.mqtt import outgoing
from fractal_rm.adapters.mqtt import publisher as publisher_module
from fractal_rm.adapters.mqtt.subscriptions import Subscriptions
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.call_errors import PublishFailed
from fractal_rm.domain.refusals import Busy, Malformed
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import AcceptedTrigger
from mqtt_stage import MqttStage, brokers_at, connected, flows_on, listener, send, trigger, until
from scripted_broker import ScriptedBroker, answering, connack, message


async def wait_for_last(way_in):
    """Wait for the trigger "last", which arrives after all others. Remove it from the record."""
    await until(lambda: (None, b"last") in way_in.intake.started())
    way_in.intake.arrivals = [each for each in way_in.intake.arrivals if each.body != b"last"]


# --- messages that start flows ----------------------------------------------------------------


async def test_a_message_starts_the_flows_of_its_topic(broker, tmp_path):
    flows = flows_on(a=("factory/+/frame",), b=("other",))
    async with connected(broker, tmp_path, flows) as way_in:
        await send(broker, "factory/1/frame", b"{}", retain=False)
        await send(broker, "t/in", b"trigger")
        await until(lambda: len(way_in.intake.started()) == 2)
        assert set(way_in.intake.started()) == {("a", b"{}"), (None, b"trigger")}


async def test_filters_that_overlap_start_each_flow_once(mosquitto, tmp_path):
    flows = flows_on(a=("x/+", "+/y"), b=("+/y",), c=("#",))
    async with connected(mosquitto, tmp_path, flows) as way_in:
        await send(mosquitto, "x/y", b"1", b"2")
        await send(mosquitto, "t/in", b"last")
        await wait_for_last(way_in)
        starts = [each for each in way_in.intake.started() if each[1] in (b"1", b"2")]
        assert sorted(starts) == [(flow, body) for flow in "abc" for body in (b"1", b"2")]
        # The trigger was received only once: its copy for the filter `#` is not a trigger.
        assert (None, b"last") not in way_in.intake.started()


async def test_a_message_is_acknowledged_when_all_of_its_runs_are_durable(mosquitto, tmp_path):
    flows = flows_on(a=("x",), b=("x",))
    async with connected(mosquitto, tmp_path, flows) as way_in:
        full, offered = [True], []

        async def receive_all(arrivals):
            offered.extend(arrival.flow_id for arrival in arrivals)
            return [
                Busy("no room")
                if full[0] and arrival.flow_id == "b"
                else AcceptedTrigger("r", State.ACCEPTED)
                for arrival in arrivals
            ]

        way_in.intake.receive_all = receive_all
        await send(mosquitto, "x", b"1")
        await until(lambda: offered == ["a", "b"])
        assert way_in.connection.unacknowledged == 1
        full[0] = False
        way_in.intake.room.set()
        await until(lambda: way_in.connection.unacknowledged == 0)
        assert offered == ["a", "b", "b"]  # flow a is not offered again: its run is durable


async def test_a_message_that_cannot_be_a_trigger_becomes_a_dead_letter(mosquitto, tmp_path):
    async with connected(mosquitto, tmp_path, flows_on(a=("x",))) as way_in:
        way_in.intake.refusal = Malformed("not UTF-8")
        await send(mosquitto, "x", b"\xff")
        await until(lambda: way_in.intake.codes == ["malformed"])
        await until(lambda: way_in.connection.unacknowledged == 0)


async def test_a_retained_message_starts_a_flow_only_if_the_key_retained_is_configured(
    broker, tmp_path
):
    await send(broker, "x", b"old", retain=True)
    flows = flows_on(a=("x",))
    async with connected(broker, tmp_path, flows, client_id="a") as way_in:
        await send(broker, "x", b"new")
        await until(lambda: ("a", b"new") in way_in.intake.started())
        assert ("a", b"old") not in way_in.intake.started()
    async with connected(broker, tmp_path, flows, client_id="b", retained=True) as way_in:
        await until(lambda: ("a", b"old") in way_in.intake.started())


def saved_filters(state):
    """The topic filters that are saved in the state folder."""
    (file,) = state.glob("mqtt-topics-*.json")
    return {each for filters in json.loads(file.read_text()).values() for each in filters}


async def test_a_reload_changes_the_subscriptions_and_keeps_the_session(broker, tmp_path):
    async with connected(broker, tmp_path, flows_on(a=("x", "y"))) as way_in:
        connection = way_in.connection
        way_in.change_flows(flows_on(a=("y",), b=("z",)))
        await until(lambda: saved_filters(tmp_path) == {"t/in", "y", "z"})
        assert way_in.connection is connection
        for topic in ("x", "y", "z"):
            await send(broker, topic, topic.encode())
        await send(broker, "t/in", b"last")
        await wait_for_last(way_in)
        assert sorted(way_in.intake.started()) == [("a", b"y"), ("b", b"z")]
        assert way_in.intake.codes == []


async def test_a_filter_that_was_removed_while_the_node_was_down_is_unsubscribed(broker, tmp_path):
    async with connected(broker, tmp_path, flows_on(a=("x", "y"))):
        pass
    async with connected(broker, tmp_path, flows_on(a=("y",))) as way_in:
        await send(broker, "x", b"x")
        await send(broker, "y", b"y")
        await send(broker, "t/in", b"last")
        await wait_for_last(way_in)
        assert way_in.intake.started() == [("a", b"y")]
        assert way_in.intake.codes == []


async def test_a_message_for_a_removed_filter_is_a_dead_letter(broker, tmp_path):
    async with connected(broker, tmp_path, flows_on(a=("x",))):
        pass
    await send(broker, "x", b"late")
    async with connected(broker, tmp_path, {}) as way_in:
        await until(lambda: way_in.intake.codes == ["unknown-flow"])
        assert [each.body for each in way_in.intake.dead_letters] == [b"late"]


async def test_a_refused_topic_is_reported_and_triggers_are_received(tmp_path):
    refused = b"\x90\x04%b\0\x87"
    broker = answering(
        ScriptedBroker(lambda _: connack()),
        lambda first, data: refused % data[:2] if first == 0x82 and b"secret" in data else None,
    )
    async with broker.listening(), connected(broker, tmp_path, flows_on(a=("open",))) as way_in:
        way_in.change_flows(flows_on(a=("$SYS/secret/#",)))
        await until(lambda: not way_in.status().ok)
        assert "refuses subscriptions to $SYS/secret/#" in way_in.status().text
        assert "topic_refused" in way_in.telemetry.events
        broker.send(message("t/in", b"1", 7))
        await until(lambda: (None, b"1") in way_in.intake.started())


async def test_the_properties_of_a_message_become_metadata_of_its_trigger(mosquitto, tmp_path):
    trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
    async with connected(mosquitto, tmp_path) as way_in:
        await send(
            mosquitto, "t/in", b"1", message_expiry_interval=30, response_topic="answers",
            correlation_data=b"\x01", content_type="application/cloudevents+json",
            user_property=[("traceparent", trace), ("id", "k")],
        )  # fmt: skip
        await until(lambda: way_in.intake.arrivals)
        (arrival,) = way_in.intake.arrivals
        metadata = arrival.metadata
        assert arrival.key == "k"
        assert (metadata.reply_topic, metadata.correlation) == ("answers", b"\x01")
        assert metadata.traceparent == trace
        assert metadata.content_type == "application/cloudevents+json"
        assert 29_000 <= metadata.left_ms <= 30_000


class LaterClock(SystemClock):
    """A clock whose steady clock is ahead by ``ahead_ms``."""

    ahead_ms = 0

    def steady_ms(self):
        return super().steady_ms() + self.ahead_ms


async def test_the_time_that_a_message_waits_for_room_is_counted(mosquitto, tmp_path):
    clock = LaterClock()
    async with connected(mosquitto, tmp_path, clock=clock) as way_in:
        way_in.intake.refusal = Busy("no room")
        await send(mosquitto, "t/in", b"1")
        await until(lambda: way_in.intake.waiting)
        clock.ahead_ms = 5_000  # the time counts even if the machine was suspended
        way_in.intake.refusal = None
        way_in.intake.room.set()
        await until(lambda: len(way_in.intake.arrivals) == 2)
        assert way_in.intake.arrivals[1].waited_ms >= 5_000


# --- the trigger topic --------------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["$share/nodes/t/in", "t/+", "t/#", "$share/nodes/t/#"])
async def test_the_trigger_topic_may_be_shared_or_have_wildcards(topic, mosquitto, tmp_path):
    flows = flows_on(a=("t/in",), b=("u",))
    async with connected(mosquitto, tmp_path, flows, topic=topic) as way_in:
        await send(mosquitto, "t/in", b"1")
        await send(mosquitto, "u", b"2")
        await until(lambda: len(way_in.intake.arrivals) == 2)
        await send(mosquitto, "t/in", b"last")
        await until(lambda: len(way_in.intake.arrivals) == 3)
        assert sorted(way_in.intake.started(), key=lambda each: each[1]) == [
            (None, b"1"), ("b", b"2"), (None, b"last"),
        ]  # fmt: skip
        assert way_in.intake.dead_letters == []


async def test_each_message_goes_to_one_of_two_nodes_with_a_shared_trigger_topic(
    mosquitto, tmp_path
):
    for name in "ab":
        (tmp_path / name).mkdir()
    topic = "$share/nodes/t/in"
    async with (
        connected(mosquitto, tmp_path / "a", topic=topic) as first_node,
        connected(mosquitto, tmp_path / "b", topic=topic) as second_node,
    ):
        for half in (range(10), range(10, 20)):  # not 20 at once: Receive Maximum
            await trigger(mosquitto, *(b"%d" % n for n in half))
        all_bodies = lambda: first_node.intake.bodies() + second_node.intake.bodies()  # noqa: E731
        await until(lambda: len(all_bodies()) == 20)
        assert set(all_bodies()) == {b"%d" % n for n in range(20)}
        assert first_node.intake.arrivals
        assert second_node.intake.arrivals


# --- a node that is stopped while it connects ---------------------------------------------------


async def test_a_node_that_stops_before_the_suback_still_acknowledges_what_it_received(
    mosquitto, tmp_path, monkeypatch
):
    async with connected(mosquitto, tmp_path, client_id="node"):
        pass
    await send(mosquitto, "t/in", b"1")
    async with connected(mosquitto, tmp_path, client_id="node") as way_in:
        await until(lambda: way_in.intake.arrivals)

    async def wait_forever(*_, **__):
        await asyncio.Event().wait()

    await send(mosquitto, "t/in", b"2")
    with monkeypatch.context() as patched:
        patched.setattr(Subscriptions, "subscribe_to_triggers", wait_forever)
        mqtt = Mqtt(topic="t/in", brokers=brokers_at(mosquitto.port), client_id="node")
        stopped = MqttStage(tmp_path, mqtt)
        await stopped.start()
        await until(lambda: stopped.intake.bodies() == [b"2"])
        await stopped.stop()
    async with connected(mosquitto, tmp_path, client_id="node") as way_in:
        await send(mosquitto, "t/in", b"last")
        await until(lambda: way_in.intake.arrivals)
        assert way_in.intake.bodies() == [b"last"]


# --- published messages -------------------------------------------------------------------------


async def test_a_published_message_arrives_with_its_correlation_data(broker, tmp_path):
    async with connected(broker, tmp_path) as way_in, listener(broker, "answers") as received:
        await way_in.publish("answers", b"one", correlation=b"\x00\xff")
        await way_in.publish("answers", b"two")
        await until(lambda: len(received) == 2)
        correlation = b"\x00\xff" if broker.protocol == "5" else None
        assert received == [(b"one", correlation), (b"two", None)]


async def test_more_messages_than_the_receive_maximum_can_be_published_at_the_same_time(
    mosquitto, tmp_path
):
    connection = connected(mosquitto, tmp_path)
    async with connection as way_in, listener(mosquitto, "answers") as received:
        await asyncio.gather(*(way_in.publish("answers", b"%d" % n) for n in range(300)))
        await until(lambda: len(received) == 300)
        assert way_in.status().ok


async def test_publishing_fails_without_a_connection(mosquitto, tmp_path, monkeypatch):
    monkeypatch.setattr(publisher_module, "WAIT_FOR_CONNECTION_S", 0.1)
    way_in = MqttStage(tmp_path, Mqtt(topic="t/in", brokers=brokers_at(mosquitto.port)))
    with pytest.raises(PublishFailed, match="no broker"):
        await way_in.publish("answers", b"1")
    await way_in.start()
    await until(lambda: way_in.status().ok)
    connection = way_in.connection
    connection.abort()
    with pytest.raises(PublishFailed):
        await connection.publish("answers", b"1")
    await way_in.stop()
    with pytest.raises(PublishFailed, match="no broker"):
        await way_in.publish("answers", b"1")


@pytest.mark.parametrize("topic", ["", "a/#", "a/+", "a\0b"])
async def test_publishing_on_an_invalid_topic_fails(mosquitto, tmp_path, topic):
    async with connected(mosquitto, tmp_path) as way_in:
        with pytest.raises(PublishFailed) as caught:
            await way_in.publish(topic, b"1")
        assert caught.value.final
        assert way_in.status().ok


async def test_publishing_fails_if_the_puback_has_an_error_code(tmp_path):
    acl = tmp_path / "acl"
    acl.write_text("topic readwrite t/in\ntopic write fractal-rm/#\n")
    broker = Broker("mosquitto", tmp_path, f"acl_file {acl}\n").start()
    try:
        async with connected(broker, tmp_path) as way_in:
            with pytest.raises(PublishFailed, match="0x87") as caught:
                await way_in.publish("forbidden", b"1")
            assert caught.value.final
    finally:
        broker.stop()


async def test_a_message_too_large_for_the_broker_does_not_end_the_connection(tmp_path):
    broker = Broker("mosquitto", tmp_path, "max_packet_size 2000\n").start()
    try:
        async with connected(broker, tmp_path) as way_in:
            connection = way_in.connection
            with pytest.raises(PublishFailed, match="at most 2000 bytes") as caught:
                await way_in.publish("answers", b"x" * 3_000)
            assert caught.value.final
            assert way_in.connection is connection
    finally:
        broker.stop()


def without_pubacks(broker, connections):
    """Let a broker send no PUBACK for the topic ``answers`` on its first connections.

    ``connections`` is the number of these connections.
    """
    return answering(
        broker,
        lambda _, data: b"" if b"answers" in data and len(broker.connects) <= connections else None,
    )


async def test_publishing_fails_if_the_broker_does_not_acknowledge(tmp_path, monkeypatch):
    monkeypatch.setattr(outgoing, "PUBACK_LIMIT_S", 0.05)
    broker = without_pubacks(ScriptedBroker(lambda _: connack()), connections=1)
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        with pytest.raises(PublishFailed, match="did not acknowledge") as caught:
            await way_in.publish("answers", b"1")
        assert not caught.value.final


async def test_an_unacknowledged_message_is_sent_again_on_the_next_connection(tmp_path):
    def sent():
        return [
            data[-1:] for first, data in broker.received if first == 0x32 and b"answers" in data
        ]

    broker = without_pubacks(ScriptedBroker(lambda _: connack()), connections=1)
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        waiting = asyncio.ensure_future(way_in.publish("answers", b"1"))
        await until(lambda: sent() == [b"1"])
        way_in.connection.abort()
        await waiting
        assert sent() == [b"1", b"1"]
