"""Brokers of MQTT 3.1.1, brokers without some features, and lists of several brokers."""

from __future__ import annotations

import signal

import pytest

from brokers import Broker
from fractal_rm.adapters.mqtt import connect_loop
from fractal_rm.adapters.mqtt import connection as connection_module
from fractal_rm.adapters.mqtt.broker_memory import BrokerMemory
from fractal_rm.adapters.mqtt.brokers import Brokers
from fractal_rm.adapters.mqtt.connect_options import BrokerOptions, ConnectOptions, ConnectResult
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.call_errors import PublishFailed
from mqtt_stage import (
    MqttStage,
    brokers_at,
    connected,
    flows_on,
    listener,
    other_client,
    send,
    trigger,
    until,
)
from ports import free_port
from scripted_broker import CLOSE, NOTHING, ScriptedBroker, answering, connack, message


@pytest.fixture
def short_times(monkeypatch):
    """Shorten the pauses between connects, and the wait for a CONNACK."""
    monkeypatch.setattr(connect_loop, "LONGEST_PAUSE_S", 0.01)
    monkeypatch.setattr(connection_module, "OPEN_LIMIT_S", 1.0)


def supports_only_3_1_1(answer):
    """A broker that supports only MQTT 3.1.1. Its answer to a CONNECT of MQTT 5 is ``answer``."""
    return lambda version: answer if version == 5 else connack(mqtt_5=False)


# --- the MQTT version ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "protocol_levels"),
    [
        (connack(0x84), [5, 4]),
        (connack(0x01, mqtt_5=False), [5, 4]),
        (connack(0x05, mqtt_5=False), [5, 4]),
        (connack(mqtt_5=False), [5, 4]),
        (CLOSE, [5, 5, 4]),
        (NOTHING, [5, 5, 4]),
    ],
    ids=["0x84", "0x01", "0x05", "read as 3.1.1", "close", "silence"],
)
async def test_mqtt_3_1_1_is_used_if_the_broker_does_not_support_mqtt_5(
    answer, protocol_levels, tmp_path, short_times
):
    broker = ScriptedBroker(supports_only_3_1_1(answer))
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        assert broker.connects == protocol_levels
        assert "MQTT 3.1.1" in way_in.status().text
        way_in.connection.abort()
        await until(lambda: len(broker.connects) > len(protocol_levels))
        assert broker.connects[-1] == 4  # MQTT 5 is not tried again before the next start


@pytest.mark.parametrize("code", [0x80, 0x86, 0x87, 0x88, 0x89, 0x9F])
async def test_a_refusal_for_another_reason_does_not_change_the_version(
    code, tmp_path, short_times
):
    broker = ScriptedBroker(lambda _: connack(code))
    async with broker.listening():
        way_in = MqttStage(tmp_path, Mqtt(brokers=brokers_at(broker.port)))
        await way_in.start()
        await until(lambda: len(broker.connects) >= 5)
        assert f"(0x{code:02x})" in way_in.status().text
        await way_in.stop()
    assert set(broker.connects) == {5}


async def test_mqtt_5_is_used_again_after_the_broker_did_not_answer_for_a_while(
    tmp_path, short_times
):
    answers = iter([CLOSE] * 5)
    broker = ScriptedBroker(lambda version: next(answers, connack() if version == 5 else CLOSE))
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        assert broker.connects == [5, 5, 4, 4, 4, 5]
        broker.on_connect = lambda version: CLOSE if len(broker.connects) < 10 else connack()
        way_in.connection.abort()
        await until(lambda: len(broker.connects) >= 10)
        assert set(broker.connects[6:]) == {5}  # the broker has accepted MQTT 5 before


@pytest.mark.parametrize(("version", "protocol_level"), [("5", 5), ("3.1.1", 4)])
async def test_the_version_can_be_configured(version, protocol_level, tmp_path, short_times):
    broker = ScriptedBroker(lambda _: CLOSE)
    async with broker.listening():
        way_in = MqttStage(tmp_path, Mqtt(brokers=brokers_at(broker.port), version=version))
        await way_in.start()
        await until(lambda: len(broker.connects) >= 5)
        await way_in.stop()
    assert set(broker.connects) == {protocol_level}


def test_there_is_a_pause_if_both_versions_are_refused():
    options = BrokerOptions(None)
    assert options.learn(ConnectResult.OTHER_VERSION)
    assert options.options == ConnectOptions(mqtt_5=False)
    assert not options.learn(ConnectResult.OTHER_VERSION)
    assert options.options == ConnectOptions()


@pytest.mark.parametrize("version", [None, "3.1.1"])
def test_after_each_pause_the_connect_options_are_those_of_the_first_connect(version):
    """All connects fail with silence, as at a proxy whose broker is down."""
    brokers = Brokers(Mqtt(version=version), BrokerMemory())
    first = brokers.options
    after_pauses = [
        brokers.options for _ in range(12) if not brokers.note_failed(ConnectResult.SILENCE)
    ]
    assert set(after_pauses) == {first}


def test_silence_before_the_broker_went_down_does_not_change_the_version():
    """The broker hung until it went down: it did not answer any CONNECT."""
    brokers = Brokers(Mqtt(), BrokerMemory())
    assert [brokers.note_failed(ConnectResult.SILENCE) for _ in range(2)] == [False, True]
    assert not brokers.options.mqtt_5
    assert not brokers.note_failed(ConnectResult.NOT_SENT)
    assert brokers.options == ConnectOptions()


@pytest.mark.slow
async def test_messages_are_received_from_rabbitmq_and_published_to_it(rabbitmq, tmp_path):
    """RabbitMQ 3.10 closes the connection when it gets a CONNECT of MQTT 5."""
    connection = connected(rabbitmq, tmp_path, flows_on(a=("f/+",)))
    async with connection as way_in, listener(rabbitmq, "answers") as received:
        assert "MQTT 3.1.1" in way_in.status().text
        assert way_in.telemetry.events.count("mqtt_disconnected") == 2
        await trigger(rabbitmq, b"1")
        await send(rabbitmq, "f/x", b"2")
        await until(lambda: set(way_in.intake.started()) == {(None, b"1"), ("a", b"2")})
        await way_in.publish("answers", b"3")
        await until(lambda: received == [(b"3", None)])
        way_in.intake.answers.clear()
        await trigger(rabbitmq, b"slow")
        await until(lambda: (None, b"slow") in way_in.intake.started())
        way_in.connection.abort()
        way_in.intake.answers.set()
        # RabbitMQ redelivers the message with another packet id.
        await until(lambda: way_in.intake.started().count((None, b"slow")) == 2)
        await until(way_in.redelivered)
        assert way_in.redelivered()[0]["may_run_twice"] == 1


@pytest.mark.slow
async def test_a_topic_is_recognized_although_rabbitmq_replaces_its_dots_by_slashes(
    rabbitmq, tmp_path
):
    async with connected(rabbitmq, tmp_path, flows_on(a=("f.*",)), topic="plant.in") as way_in:
        await send(rabbitmq, "plant.in", b"1")
        await send(rabbitmq, "f.x", b"2")
        await until(lambda: len(way_in.intake.started()) + len(way_in.intake.codes) == 2)
        assert set(way_in.intake.started()) == {(None, b"1"), ("a", b"2")}


# --- several brokers ----------------------------------------------------------------------------


async def test_brokers_are_tried_in_turn_and_the_first_that_accepts_is_used(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = (Broker("mosquitto", tmp_path / name) for name in "ab")
    second.start()
    brokers = brokers_at(free_port(), first.port, second.port)
    async with connected(second, tmp_path, brokers=brokers) as way_in:
        assert f"127.0.0.1:{second.port}" in way_in.status().text
        assert [end["retry_in_s"] for end in way_in.telemetry.fields_of("mqtt_disconnected")] == [
            0,
            0,
        ]
        first.start()
        second.stop(signal.SIGKILL)
        await until(lambda: f"127.0.0.1:{first.port}, MQTT 5" in way_in.status().text)
        await trigger(first, b"1")
        await until(lambda: way_in.intake.bodies() == [b"1"])
        second.start()
        way_in.connection.abort()
        await until(lambda: not way_in.status().ok)
        await until(lambda: way_in.status().ok)
        assert f"127.0.0.1:{first.port}" in way_in.status().text
    first.stop()
    second.stop()


# --- unsupported features -----------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_broker_without_retained_messages_is_used_and_reported(
    version, tmp_path, short_times
):
    broker = Broker("mosquitto", tmp_path, "retain_available false\n").start()
    async with listener(broker, "fractal-rm/node/status") as received:
        settings = {"client_id": "node", "version": version, "retained": True}
        async with connected(broker, tmp_path, **settings) as way_in:
            assert "does not support retained messages" in way_in.status().text
            (unsupported,) = way_in.telemetry.fields_of("mqtt_unsupported")
            assert "mqtt.retained has no effect" in unsupported["feature"]
            await trigger(broker, b"1")
            await until(lambda: way_in.intake.bodies() == [b"1"])
            way_in.connection.abort()
            await until(lambda: (b'{"state": "lost"}', None) in received)
            await until(lambda: way_in.status().ok)
        await until(lambda: received[-1] == (b'{"state": "stopped"}', None))
    broker.stop()


async def test_a_broker_without_qos_1_is_used_and_reported(tmp_path):
    broker = Broker("mosquitto", tmp_path, "max_qos 0\n").start()
    async with connected(broker, tmp_path) as way_in:
        assert "does not support QoS 1" in way_in.status().text
        async with other_client(broker) as client:
            client.publish("t/in", b"1", qos=0)
            await until(lambda: way_in.intake.bodies() == [b"1"])
        with pytest.raises(PublishFailed, match="accepts no messages at QoS 1"):
            await way_in.publish("answers", b"1")
    broker.stop()


async def test_a_missing_permission_to_publish_is_reported_in_words(tmp_path):
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    broker = Broker("mosquitto", tmp_path, f"acl_file {acl}\n").start()
    async with connected(broker, tmp_path) as way_in:
        with pytest.raises(PublishFailed) as caught:
            await way_in.publish("answers", b"1")
        assert caught.value.final
        reason = "this node's user may not publish on the topic: not authorized (0x87)"
        assert str(caught.value) == reason
        assert way_in.telemetry.fields_of("status_refused") == [{"reason": reason}]
        assert "does not support publishing this node's status" in way_in.status().text
        # Mosquitto 2.0.11 without a limit for queued messages closes the connection when it refuses
        # a message. The node then connects once more, and publishes no status again.
        assert len(way_in.telemetry.fields_of("mqtt_connected")) <= 2
    broker.stop()


async def test_filters_are_not_left_out_if_a_refused_status_message_ends_the_connection(tmp_path):
    """Mosquitto 2.0.11 closes the connection while the node is subscribing to its filters."""
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    broker = Broker("mosquitto", tmp_path, f"acl_file {acl}\n").start()
    async with connected(broker, tmp_path, flows_on(a=("f/x", "f/y", "f/z"))) as way_in:
        assert way_in.telemetry.fields_of("topic_refused") == []
        assert "does not support publishing this node's status" in way_in.status().text
    broker.stop()


@pytest.mark.parametrize("code", [0x91, 0x97])
async def test_a_message_that_is_refused_temporarily_may_be_published_again(code, tmp_path):
    broker = answering(
        ScriptedBroker(lambda _: connack()),
        lambda _, data: b"\x40\x03\x00" + bytes([data[10], code]) if b"answers" in data else None,
    )
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        with pytest.raises(PublishFailed, match=f"0x{code:02x}") as caught:
            await way_in.publish("answers", b"1")
        assert not caught.value.final


@pytest.mark.parametrize(
    ("topic", "announced", "words"),
    [
        ("$share/g/t", b"\x2a\0", "does not support shared subscriptions"),
        ("t/#", b"\x28\0", "does not support wildcard subscriptions"),
    ],
)
async def test_a_feature_that_the_broker_announces_as_unsupported_is_not_requested(
    topic, announced, words, tmp_path
):
    broker = ScriptedBroker(lambda _: connack(properties=announced))
    async with broker.listening():
        mqtt = Mqtt(topic=topic, brokers=brokers_at(broker.port))
        way_in = MqttStage(tmp_path, mqtt)
        await way_in.start()
        await until(lambda: words in way_in.status().text)
        await way_in.stop()
    assert broker.received == []


# --- packets that violate the protocol ----------------------------------------------------------


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (b"\x00\x00", "type 0"),
        (b"\xf0\x00", "type 15"),
        (b"\x10\x00", "type 1"),
        (b"\x82\x00", "type 8"),
        (b"\x42\x02\x00\x01", "type 4 with the flags 0010"),
        (b"\x40\x00", "type 4 that cannot be read"),
        (b"\x90\x01\x00", "type 9 that cannot be read"),
        (b"\x90\x02\x00\x01", "type 9 that cannot be read"),
        (message("t/in", b"", 1).replace(b"\x32", b"\x36", 1), "type 3 with the flags 0110"),
        (b"\x38\x07\x00\x04t/in\0", "type 3 with the flags 1000"),
    ],
    ids=lambda part: part if isinstance(part, str) else part.hex(),
)
async def test_a_packet_that_violates_the_protocol_ends_the_connection_with_a_reason(
    packet, reason, tmp_path, short_times, caplog
):
    broker = ScriptedBroker(lambda _: connack(), after_suback=packet)
    async with broker.listening():
        mqtt = Mqtt(topic="t/in", brokers=brokers_at(broker.port))
        way_in = MqttStage(tmp_path, mqtt)
        await way_in.start()
        await until(lambda: broker.ended >= 2)
        await way_in.stop()
    end = way_in.telemetry.fields_of("mqtt_disconnected")[0]
    assert "the broker does not speak MQTT: a packet of" in end["reason"]
    assert reason in end["reason"]
    assert end["exc_info"] is None
    assert "Traceback" not in caplog.text
    assert set(broker.connects) == {5}


async def test_a_client_id_may_contain_any_characters(mosquitto, tmp_path):
    async with connected(mosquitto, tmp_path, client_id="Werk Süd ½") as way_in:
        await trigger(mosquitto, b"1")
        await until(lambda: way_in.intake.bodies() == [b"1"])
