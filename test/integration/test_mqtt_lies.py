"""Brokers that say what cannot be, or less than was asked for."""

from __future__ import annotations

import asyncio

import pytest
from test_mqtt import Heard, Intake, at, intake_at, made, publisher, until
from test_mqtt_topics import begun_at

from brokers import Broker
from fractal_rm.adapters.mqtt import intake as intake_module
from fractal_rm.adapters.mqtt import link as link_module
from fractal_rm.config.model import Mqtt
from scripted_broker import CLOSE, NOTHING, SUBACK, ScriptedBroker, connack, message

PINGREQ = (0xC0, b"")


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    """Tries that follow soon."""
    monkeypatch.setattr(intake_module, "AGAIN_AT_MOST_S", 0.01)


def answering(broker, answer):
    """Let it answer a packet by ``answer(type, content)``, and as always where that is None."""
    always = broker._acknowledged

    def acknowledged(first, data):
        own = answer(first, data)
        return always(first, data) if own is None else own

    broker._acknowledged = acknowledged
    return broker


async def why_not(broker, tmp_path):
    """Why there is no connection, and what has come nevertheless."""
    intake = Intake()
    async with broker.listening():
        way_in = made(Mqtt(topic="t/in", brokers=at(broker.port)), intake, tmp_path, Heard())
        await way_in.start()
        await until(lambda: len(broker.connects) >= 3)
        await way_in.stop()
    (*_, last) = way_in._telemetry.of("mqtt_down")
    return last["reason"], intake.bodies()


EARLY = message("t/in", b"1", 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (EARLY + connack(), "a packet before its CONNACK"),
        (EARLY, "a packet before its CONNACK"),
        (b"\x90\x04\0\1\0\1" + connack(), "a packet before its CONNACK"),
        (connack() + connack(), "a second CONNACK"),
        (b"\x20\x01\x00", "a packet of type 2 that cannot be read"),
        (connack(more=b"\x7f\0"), "a CONNACK with a property that it does not have"),
        (connack(more=b"\x21\0"), "a packet of type 2 that cannot be read"),
        (connack(more=b"\x21\0\0"), "the broker announces a receive maximum of 0"),
        (connack(more=b"\x27\0\0\0\0"), "the broker announces a maximum packet size of 0"),
    ],
)
async def test_a_connack_that_cannot_be_ends_the_connection_with_a_reason(answer, reason, tmp_path):
    said, came = await why_not(ScriptedBroker(lambda _: answer), tmp_path)
    assert reason in said
    assert came == []


async def test_a_subscription_without_an_answer_is_not_taken_for_granted(tmp_path):
    broker = answering(
        ScriptedBroker(lambda _: connack()),
        lambda first, data: bytes([SUBACK, 3]) + data[:2] + b"\0" if first == 0x82 else None,
    )
    reason, _ = await why_not(broker, tmp_path)
    assert "0 answers to a subscription to one filter" in reason


async def test_a_broker_that_does_not_watch_its_clients_is_watched(tmp_path):
    broker = ScriptedBroker(lambda _: connack(more=b"\x13\0\0"))  # server keep alive
    async with broker.listening(), intake_at(broker, tmp_path, keepalive=1):
        await until(lambda: PINGREQ in broker.received)


async def test_the_broker_ends_the_connection_when_it_has_read_all(tmp_path):
    """A reset for what was not read here, or a quick next connection, might overtake a PUBACK."""
    ended = []

    class Slow(ScriptedBroker):
        async def at_goodbye(self):
            self.send(message("t/in", b"late", 7))
            for _ in range(20):
                await asyncio.sleep(0.005)
            ended.append("by the broker")

    broker = Slow(lambda _: connack())
    async with broker.listening(), intake_at(broker, tmp_path) as way_in:
        await way_in.stop()
        ended.append("here")
    assert ended == ["by the broker", "here"]
    assert way_in.intake.bodies() == []


async def test_a_ping_leaves_before_a_keepalive_is_over(tmp_path):
    """NATS servers end a connection with a keepalive of 1 s after just that."""
    broker = ScriptedBroker(lambda _: connack())
    async with broker.listening(), intake_at(broker, tmp_path, keepalive=600) as way_in:
        way_in._link._client._connection._last_data_out -= 450
        way_in._link._beat()
        await until(lambda: PINGREQ in broker.received)


async def test_silence_before_the_connack_is_said_whatever_the_keepalive(tmp_path, monkeypatch):
    monkeypatch.setattr(link_module, "OPEN_LIMIT_S", 2.2)  # more than two keepalives
    broker = ScriptedBroker(lambda _: NOTHING)
    async with broker.listening():
        mqtt = Mqtt(topic="t/in", brokers=at(broker.port), keepalive=1)
        way_in = made(mqtt, Intake(), tmp_path, Heard())
        await way_in.start()
        await until(lambda: way_in._telemetry.of("mqtt_down"))
        await way_in.stop()
    said = way_in._telemetry.of("mqtt_down")[0]
    assert said["reason"] == "the broker did not answer within 2 s"


async def test_less_than_qos_1_is_said(tmp_path):
    broker = answering(
        ScriptedBroker(lambda _: connack()),
        lambda first, data: bytes([SUBACK, 4]) + data[:2] + b"\0\0" if first == 0x82 else None,
    )
    async with broker.listening(), intake_at(broker, tmp_path) as way_in:
        assert "does not have QoS 1 for what this user subscribes to" in way_in.status().text


async def test_a_broker_of_3_1_1_without_qos_1_is_used_and_that_is_said(tmp_path):
    broker = Broker("mosquitto", tmp_path, "max_qos 0\n").start()
    async with intake_at(broker, tmp_path, version="3.1.1") as way_in:
        assert "does not have QoS 1: a trigger that it loses is lost" in way_in.status().text
        async with publisher(broker) as client:
            client.publish("t/in", b"1", qos=0)
            await until(lambda: way_in.intake.bodies() == [b"1"])
    broker.stop()


async def test_that_sharing_is_uncertain_in_3_1_1_is_said(tmp_path):
    broker = ScriptedBroker(lambda _: connack(mqtt_5=False))
    more = {"version": "3.1.1", "topic": "$share/g/t"}
    async with broker.listening(), intake_at(broker, tmp_path, **more) as way_in:
        assert "whether subscriptions can be shared is not known" in way_in.status().text


async def test_only_ends_of_the_connection_in_a_row_count_against_a_filter(tmp_path):
    ends = {1, 3}  # the connections that end at the filter
    broker = answering(
        ScriptedBroker(lambda _: connack()),
        lambda first, data: (
            b"\xe0\0" if first == 0x82 and b"/f" in data and len(broker.connects) in ends else None
        ),
    )
    async with broker.listening(), intake_at(broker, tmp_path, begun_at(a=("/f",))) as way_in:
        assert len(broker.connects) == 2
        way_in._link.abort()
        await until(lambda: len(broker.connects) == 4 and way_in.status().ok)
        assert "topic_refused" not in way_in.telemetry.events


async def test_after_a_connection_that_was_perhaps_accepted_nothing_is_known(tmp_path):
    """A broker that has crashed may have sent another message under the same packet id by it."""
    same = {"topic": "t/in", "body": b"same", "packet_id": 50}
    answers = iter([connack(), CLOSE])
    broker = ScriptedBroker(lambda _: next(answers, connack(session=True)), after=message(**same))
    async with broker.listening(), intake_at(broker, tmp_path, version="5") as way_in:
        way_in._known._answered.first_new(50, came=1)  # packet ids go on
        await until(lambda: way_in.intake.bodies() == [b"same"])
        broker.after = message(**same, dup=True)
        way_in._link.abort()
        await until(lambda: way_in.intake.bodies() == [b"same", b"same"])
        await until(lambda: way_in.telemetry.of("mqtt_came_again"))
        assert way_in.telemetry.of("mqtt_came_again")[0]["may_run_twice"] == 1
