"""Brokers that violate the protocol, or that grant less than was requested."""

from __future__ import annotations

import asyncio

import pytest

from brokers import Broker
from fractal_rm.adapters.mqtt import connect_loop
from fractal_rm.adapters.mqtt import connection as connection_module
from fractal_rm.config.model import Mqtt
from mqtt_stage import MqttStage, brokers_at, connected, flows_on, other_client, until
from scripted_broker import (
    CLOSE,
    NOTHING,
    SUBACK,
    ScriptedBroker,
    answering,
    connack,
    message,
)

PINGREQ = (0xC0, b"")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch):
    """Shorten the pauses between connects."""
    monkeypatch.setattr(connect_loop, "LONGEST_PAUSE_S", 0.01)


async def fail_to_connect(broker, tmp_path):
    """Try to connect. Returns the last reason in the log, and the bodies of received messages."""
    async with broker.listening():
        way_in = MqttStage(tmp_path, Mqtt(topic="t/in", brokers=brokers_at(broker.port)))
        await way_in.start()
        await until(lambda: len(broker.connects) >= 3)
        await way_in.stop()
    last_end = way_in.telemetry.fields_of("mqtt_disconnected")[-1]
    return last_end["reason"], way_in.intake.bodies()


EARLY_PUBLISH = message("t/in", b"1", 1)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (EARLY_PUBLISH + connack(), "a packet before the CONNACK"),
        (EARLY_PUBLISH, "a packet before the CONNACK"),
        (b"\x90\x04\0\1\0\1" + connack(), "a packet before the CONNACK"),
        (connack() + connack(), "a second CONNACK"),
        (b"\x20\x01\x00", "a packet of type 2 that cannot be read"),
        (connack(properties=b"\x7f\0"), "a CONNACK with an unknown property"),
        (connack(properties=b"\x21\0"), "a packet of type 2 that cannot be read"),
        (connack(properties=b"\x21\0\0"), "the broker announces a receive maximum of 0"),
        (connack(properties=b"\x27\0\0\0\0"), "the broker announces a maximum packet size of 0"),
    ],
)
async def test_an_invalid_connack_ends_the_connection_with_a_reason(answer, reason, tmp_path):
    reported, received = await fail_to_connect(ScriptedBroker(lambda _: answer), tmp_path)
    assert reason in reported
    assert received == []


async def test_a_suback_without_a_reason_code_does_not_grant_the_subscription(tmp_path):
    broker = answering(
        ScriptedBroker(lambda _: connack()),
        lambda first, data: bytes([SUBACK, 3]) + data[:2] + b"\0" if first == 0x82 else None,
    )
    reason, _ = await fail_to_connect(broker, tmp_path)
    assert "a SUBACK with 0 reason codes for one filter" in reason


async def test_a_broker_with_a_server_keep_alive_of_0_is_pinged(tmp_path):
    broker = ScriptedBroker(lambda _: connack(properties=b"\x13\0\0"))  # Server Keep Alive
    async with broker.listening(), connected(broker, tmp_path, keepalive=1):
        await until(lambda: PINGREQ in broker.received)


async def test_after_a_disconnect_the_node_waits_until_the_broker_closes_the_connection(tmp_path):
    """If the node closed the connection, the kernel could reset it, and a PUBACK could be lost."""
    closed_by = []

    class SlowBroker(ScriptedBroker):
        async def before_close(self):
            self.send(message("t/in", b"late", 7))
            for _ in range(20):
                await asyncio.sleep(0.005)
            closed_by.append("broker")

    broker = SlowBroker(lambda _: connack())
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        await way_in.stop()
        closed_by.append("node")
    assert closed_by == ["broker", "node"]
    assert way_in.intake.bodies() == []


async def test_the_time_limit_and_not_the_keepalive_ends_the_wait_for_a_connack(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(connection_module, "OPEN_LIMIT_S", 2.2)  # more than two keepalives
    broker = ScriptedBroker(lambda _: NOTHING)
    async with broker.listening():
        mqtt = Mqtt(topic="t/in", brokers=brokers_at(broker.port), keepalive=1)
        way_in = MqttStage(tmp_path, mqtt)
        await way_in.start()
        await until(lambda: way_in.telemetry.fields_of("mqtt_disconnected"))
        await way_in.stop()
    end = way_in.telemetry.fields_of("mqtt_disconnected")[0]
    assert end["reason"] == "the broker did not answer within 2 s"


async def test_a_granted_qos_of_0_is_reported(tmp_path):
    broker = answering(
        ScriptedBroker(lambda _: connack()),
        lambda first, data: bytes([SUBACK, 4]) + data[:2] + b"\0\0" if first == 0x82 else None,
    )
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        assert "does not support QoS 1 for this node's subscriptions" in way_in.status().text


async def test_an_mqtt_3_1_1_broker_without_qos_1_is_used_and_reported(tmp_path):
    broker = Broker("mosquitto", tmp_path, "max_qos 0\n").start()
    async with connected(broker, tmp_path, version="3.1.1") as way_in:
        assert "does not support QoS 1: triggers can be lost on the network" in way_in.status().text
        async with other_client(broker) as client:
            client.publish("t/in", b"1", qos=0)
            await until(lambda: way_in.intake.bodies() == [b"1"])
    broker.stop()


async def test_a_shared_subscription_in_mqtt_3_1_1_is_reported_as_uncertain(tmp_path):
    broker = ScriptedBroker(lambda _: connack(mqtt_5=False))
    settings = {"version": "3.1.1", "topic": "$share/g/t"}
    async with broker.listening(), connected(broker, tmp_path, **settings) as way_in:
        words = "it is not known whether the broker supports shared subscriptions"
        assert words in way_in.status().text


async def test_a_filter_is_left_out_only_if_it_ends_two_connections_in_a_row(tmp_path):
    ends = {1, 3}  # the numbers of the connections that the broker ends
    broker = answering(
        ScriptedBroker(lambda _: connack()),
        lambda first, data: (
            b"\xe0\0" if first == 0x82 and b"/f" in data and len(broker.connects) in ends else None
        ),
    )
    async with broker.listening(), connected(broker, tmp_path, flows_on(a=("/f",))) as way_in:
        assert len(broker.connects) == 2
        way_in.connection.abort()
        await until(lambda: len(broker.connects) == 4 and way_in.status().ok)
        assert "topic_refused" not in way_in.telemetry.events


async def test_after_a_connect_without_connack_no_message_is_recognized(tmp_path):
    """The broker may have sent a new message with the same id on the connection that failed."""
    # A packet id above the window shows that this broker does not use the lowest free id.
    packet = {"topic": "t/in", "body": b"same", "packet_id": 5_000}
    answers = iter([connack(), CLOSE])
    broker = ScriptedBroker(
        lambda _: next(answers, connack(session=True)), after_suback=message(**packet)
    )
    async with broker.listening(), connected(broker, tmp_path, version="5") as way_in:
        await until(lambda: way_in.intake.bodies() == [b"same"])
        broker.after_suback = message(**packet, dup=True)
        way_in.connection.abort()
        await until(lambda: way_in.intake.bodies() == [b"same", b"same"])
        await until(way_in.redelivered)
        assert way_in.redelivered()[0]["may_run_twice"] == 1
