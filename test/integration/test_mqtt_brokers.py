"""Brokers as they are: of an older MQTT, without what others have, several, or none at all."""

from __future__ import annotations

import asyncio
import signal
import socket
import ssl
import struct

import pytest
import trustme
from test_mqtt import Heard, Intake, at, intake_at, made, publish, publisher, until
from test_mqtt_topics import begun_at, came, listener, send

from brokers import Broker
from demanding import demanding
from fractal_rm.adapters.mqtt import intake as intake_module
from fractal_rm.adapters.mqtt import link as link_module
from fractal_rm.adapters.mqtt.brokers import Brokers
from fractal_rm.adapters.mqtt.connect_options import Answer, ConnectOptions, OptionsInTurn
from fractal_rm.adapters.mqtt.known_brokers import KnownBrokers
from fractal_rm.adapters.mqtt.publisher import MqttPublisher
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.call import Tls
from fractal_rm.domain.call_errors import PublishFailed
from keys import encrypted_key
from ports import free_port
from scripted_broker import CLOSE, NOTHING, ScriptedBroker, connack, message


@pytest.fixture
def hurried(monkeypatch):
    """Tries that follow soon, and little patience with a broker that says nothing."""
    monkeypatch.setattr(intake_module, "AGAIN_AT_MOST_S", 0.01)
    monkeypatch.setattr(link_module, "OPEN_LIMIT_S", 1.0)


def older_than_5(answer):
    """How a broker of MQTT 3.1.1 answers."""
    return lambda version: answer if version == 5 else connack(mqtt_5=False)


# --- which MQTT ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "tries"),
    [
        (connack(0x84), [5, 4]),
        (connack(0x01, mqtt_5=False), [5, 4]),
        (connack(0x05, mqtt_5=False), [5, 4]),
        (connack(mqtt_5=False), [5, 4]),
        (CLOSE, [5, 5, 4]),
        (NOTHING, [5, 5, 4]),
    ],
    ids=["0x84", "0x01", "0x05", "taken for 3.1.1", "close", "silence"],
)
async def test_a_broker_that_does_not_speak_mqtt_5_is_spoken_to_in_3_1_1(
    answer, tries, tmp_path, hurried
):
    broker = ScriptedBroker(older_than_5(answer))
    async with broker.listening(), intake_at(broker, tmp_path) as way_in:
        assert broker.connects == tries
        assert "MQTT 3.1.1" in way_in.status().text
        way_in._link.abort()
        await until(lambda: len(broker.connects) > len(tries))
        assert broker.connects[-1] == 4  # as long as the process lives


@pytest.mark.parametrize("code", [0x80, 0x86, 0x87, 0x88, 0x89, 0x9F])
async def test_a_refusal_for_another_reason_is_no_question_of_the_version(code, tmp_path, hurried):
    broker = ScriptedBroker(lambda _: connack(code))
    async with broker.listening():
        way_in = made(Mqtt(brokers=at(broker.port)), Intake(), tmp_path, Heard())
        await way_in.start()
        await until(lambda: len(broker.connects) >= 5)
        await way_in.stop()
    assert set(broker.connects) == {5}
    assert f"(0x{code:02x})" in way_in._why_not


async def test_a_broker_that_was_silent_for_other_reasons_is_not_taken_for_an_older_one(
    tmp_path, hurried
):
    answers = iter([CLOSE] * 5)
    broker = ScriptedBroker(lambda version: next(answers, connack() if version == 5 else CLOSE))
    async with broker.listening(), intake_at(broker, tmp_path) as way_in:
        assert broker.connects == [5, 5, 4, 4, 4, 5]
        broker.on_connect = lambda version: CLOSE if len(broker.connects) < 10 else connack()
        way_in._link.abort()
        await until(lambda: len(broker.connects) >= 10)
        assert set(broker.connects[6:]) == {5}  # it is known to speak it


@pytest.mark.parametrize(("version", "spoken"), [("5", 5), ("3.1.1", 4)])
async def test_the_configuration_can_say_which_mqtt(version, spoken, tmp_path, hurried):
    broker = ScriptedBroker(lambda _: CLOSE)
    async with broker.listening():
        way_in = made(Mqtt(brokers=at(broker.port), version=version), Intake(), tmp_path, Heard())
        await way_in.start()
        await until(lambda: len(broker.connects) >= 5)
        await way_in.stop()
    assert set(broker.connects) == {spoken}


def test_both_versions_refused_is_not_tried_without_a_pause():
    in_turn = OptionsInTurn(None)
    assert in_turn.learn(Answer.OTHER_VERSION)
    assert in_turn.options == ConnectOptions(mqtt_5=False)
    assert not in_turn.learn(Answer.OTHER_VERSION)
    assert in_turn.options == ConnectOptions()


@pytest.mark.parametrize("version", [None, "3.1.1"])
def test_a_broker_that_comes_back_between_two_tries_is_not_taken_for_one_that_lacks_something(
    version,
):
    """A proxy whose broker is away ends each connection without a CONNACK."""
    brokers = Brokers(Mqtt(version=version), KnownBrokers())
    first = brokers.options
    after_pauses = [brokers.options for _ in range(12) if not brokers.failed(Answer.SILENCE)]
    assert set(after_pauses) == {first}


def test_a_broker_that_was_silent_before_it_went_away_says_nothing_of_its_version():
    """One that hangs, and is started again."""
    brokers = Brokers(Mqtt(), KnownBrokers())
    assert [brokers.failed(Answer.SILENCE) for _ in range(2)] == [False, True]
    assert not brokers.options.mqtt_5
    assert not brokers.failed(Answer.NONE)
    assert brokers.options == ConnectOptions()


@pytest.mark.slow
async def test_rabbitmq_gives_triggers_and_takes_messages(rabbitmq, tmp_path):
    """Its 3.10 closes the connection of who speaks MQTT 5."""
    leaves = MqttPublisher()
    held = intake_at(rabbitmq, tmp_path, begun_at(a=("f/+",)), publisher=leaves)
    async with held as way_in, listener(rabbitmq, "answers") as heard:
        assert "MQTT 3.1.1" in way_in.status().text
        assert way_in.telemetry.events.count("mqtt_down") == 2
        await publish(rabbitmq, b"1")
        await send(rabbitmq, "f/x", b"2")
        await until(lambda: set(came(way_in)) == {(None, b"1"), ("a", b"2")})
        await leaves.publish("answers", b"3")
        await until(lambda: heard == [(b"3", None)])
        way_in.intake.go.clear()
        await publish(rabbitmq, b"held")
        await until(lambda: (None, b"held") in came(way_in))
        way_in._link.abort()
        way_in.intake.go.set()
        await until(lambda: came(way_in).count((None, b"held")) == 2)  # under another packet id
        await until(lambda: way_in.telemetry.of("mqtt_came_again"))
        assert way_in.telemetry.of("mqtt_came_again")[0]["may_run_twice"] == 1


@pytest.mark.slow
async def test_topics_with_dots_which_rabbitmq_gives_as_slashes_are_known(rabbitmq, tmp_path):
    async with intake_at(rabbitmq, tmp_path, begun_at(a=("f.*",)), topic="plant.in") as way_in:
        await send(rabbitmq, "plant.in", b"1")
        await send(rabbitmq, "f.x", b"2")
        await until(lambda: len(came(way_in)) + len(way_in.intake.codes) == 2)
        assert set(came(way_in)) == {(None, b"1"), ("a", b"2")}


# --- TLS ----------------------------------------------------------------------------------------


async def test_an_encrypted_key_is_said_and_nobody_is_asked_for_its_passphrase(tmp_path):
    cert, key = encrypted_key(tmp_path, "pkcs8")
    tls = Tls(cert=str(cert), key=str(key))
    way_in = made(Mqtt(tls=tls), Intake(), tmp_path, Heard())
    await way_in.start()
    await until(lambda: "is encrypted: the Runtime Manager cannot ask" in way_in.status().text)
    assert f"the key file {tls.key}" in way_in.status().text
    await way_in.stop()


async def test_a_broker_whose_tls_asks_for_a_certificate_is_not_taken_for_one_of_an_older_mqtt(
    tmp_path, hurried
):
    with demanding(tmp_path) as (port, ca):
        telemetry = Heard()
        way_in = made(Mqtt(brokers=at(port), tls=Tls(ca=ca)), Intake(), tmp_path, telemetry)
        await way_in.start()
        await until(lambda: len(telemetry.of("mqtt_down")) > 3)
        await way_in.stop()
    for said in telemetry.of("mqtt_down"):
        assert "TLS was refused: it asks for a certificate" in said["reason"]


async def test_a_reset_in_place_of_the_reason_why_tls_is_refused_says_nothing_of_the_version(
    tmp_path, hurried
):
    async def reset(reader, writer):
        linger = struct.pack("ii", 1, 0)
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await reader.read(1)
        writer.transport.abort()

    ca, context = trustme.CA(), ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    ca.issue_cert("127.0.0.1").configure_cert(context)
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    server = await asyncio.start_server(reset, "127.0.0.1", port := free_port(), ssl=context)
    telemetry = Heard()
    mqtt = Mqtt(brokers=at(port), tls=Tls(ca=str(tmp_path / "ca.pem")))
    way_in = made(mqtt, Intake(), tmp_path, telemetry)
    await way_in.start()
    await until(lambda: len(telemetry.of("mqtt_down")) > 3)
    await way_in.stop()
    server.close()
    for said in telemetry.of("mqtt_down"):
        assert "the broker reset the connection right after the TLS handshake" in said["reason"]


# --- several brokers ----------------------------------------------------------------------------


async def test_brokers_are_tried_in_turn_and_the_one_that_was_found_is_kept(tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    first, second = (Broker("mosquitto", tmp_path / name) for name in "ab")
    second.start()
    brokers = at(free_port(), first.port, second.port)
    async with intake_at(second, tmp_path, brokers=brokers) as way_in:
        assert f"127.0.0.1:{second.port}" in way_in.status().text
        assert [said["again_s"] for said in way_in.telemetry.of("mqtt_down")] == [0, 0]
        first.start()
        second.stop(signal.SIGKILL)
        await until(lambda: f"127.0.0.1:{first.port}, MQTT 5" in way_in.status().text)
        await publish(first, b"1")
        await until(lambda: way_in.intake.bodies() == [b"1"])
        second.start()
        way_in._link.abort()
        await until(lambda: not way_in.status().ok)
        await until(lambda: way_in.status().ok)
        assert f"127.0.0.1:{first.port}" in way_in.status().text
    first.stop()
    second.stop()


# --- what a broker may lack ---------------------------------------------------------------------


@pytest.mark.parametrize("version", ["5", "3.1.1"])
async def test_a_broker_without_retained_messages_is_used_and_that_is_said(
    version, tmp_path, hurried
):
    broker = Broker("mosquitto", tmp_path, "retain_available false\n").start()
    async with listener(broker, "fractal-rm/node/status") as heard:
        more = {"client_id": "node", "version": version, "retained": True}
        async with intake_at(broker, tmp_path, **more) as way_in:
            assert "does not have retained messages" in way_in.status().text
            (lacks,) = way_in.telemetry.of("mqtt_lacks")
            assert "mqtt.retained has no effect" in lacks["what"]
            await publish(broker, b"1")
            await until(lambda: way_in.intake.bodies() == [b"1"])
            way_in._link._client._connection._transport.abort()
            await until(lambda: (b'{"state": "lost"}', None) in heard)
            await until(lambda: way_in.status().ok)
        await until(lambda: heard[-1] == (b'{"state": "stopped"}', None))
    broker.stop()


async def test_a_broker_without_qos_1_is_used_and_that_is_said(tmp_path):
    broker = Broker("mosquitto", tmp_path, "max_qos 0\n").start()
    leaves = MqttPublisher()
    async with intake_at(broker, tmp_path, publisher=leaves) as way_in:
        assert "does not have QoS 1" in way_in.status().text
        async with publisher(broker) as client:
            client.publish("t/in", b"1", qos=0)
            await until(lambda: way_in.intake.bodies() == [b"1"])
        with pytest.raises(PublishFailed, match="no messages at QoS 1"):
            await leaves.publish("answers", b"1")
    broker.stop()


async def test_a_user_who_may_only_read_is_told_so_in_words(tmp_path):
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    broker = Broker("mosquitto", tmp_path, f"acl_file {acl}\n").start()
    leaves = MqttPublisher()
    async with intake_at(broker, tmp_path, publisher=leaves) as way_in:
        with pytest.raises(PublishFailed) as caught:
            await leaves.publish("answers", b"1")
        assert caught.value.final
        words = "the broker does not let this user publish there: not authorized (0x87)"
        assert str(caught.value) == words
        assert way_in.telemetry.of("status_refused") == [{"reason": words}]
        assert "does not have a place for this node's status" in way_in.status().text
        # Mosquitto 2.0.11 without a bound of queued messages ends the connection at each refusal.
        assert len(way_in.telemetry.of("mqtt_connected")) <= 2
    broker.stop()


async def test_an_end_after_the_refused_status_is_no_fault_of_the_topics_of_flows(tmp_path):
    """Mosquitto 2.0.11 ends it there while they are subscribed to, one after another."""
    acl = tmp_path / "acl"
    acl.write_text("topic read #\n")
    broker = Broker("mosquitto", tmp_path, f"acl_file {acl}\n").start()
    async with intake_at(broker, tmp_path, begun_at(a=("f/x", "f/y", "f/z"))) as way_in:
        assert way_in.telemetry.of("topic_refused") == []
        assert "does not have a place for this node's status" in way_in.status().text
    broker.stop()


@pytest.mark.parametrize("code", [0x91, 0x97])
async def test_a_refusal_that_passes_is_not_final(code, tmp_path):
    broker = ScriptedBroker(lambda _: connack())
    broker._acknowledged = lambda first, data: (
        b"\x40\x03\x00" + bytes([data[10], code])
        if b"answers" in data
        else ScriptedBroker._acknowledged(broker, first, data)
    )
    leaves = MqttPublisher()
    async with broker.listening(), intake_at(broker, tmp_path, publisher=leaves):
        with pytest.raises(PublishFailed, match=f"0x{code:02x}") as caught:
            await leaves.publish("answers", b"1")
        assert not caught.value.final


@pytest.mark.parametrize(
    ("topic", "lacking", "words"),
    [("$share/g/t", b"\x2a\0", "no shared subscriptions"), ("t/#", b"\x28\0", "with wildcards")],
)
async def test_what_a_broker_has_said_that_it_lacks_is_not_asked_for(
    topic, lacking, words, tmp_path
):
    broker = ScriptedBroker(lambda _: connack(more=lacking))
    async with broker.listening():
        mqtt = Mqtt(topic=topic, brokers=at(broker.port))
        way_in = made(mqtt, Intake(), tmp_path, Heard())
        await way_in.start()
        await until(lambda: words in way_in.status().text)
        await way_in.stop()
    assert broker.received == []


# --- what no broker sends -----------------------------------------------------------------------


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
async def test_what_no_broker_sends_ends_the_connection_with_a_reason(
    packet, reason, tmp_path, hurried, caplog
):
    broker = ScriptedBroker(lambda _: connack(), after=packet)
    async with broker.listening():
        mqtt = Mqtt(topic="t/in", brokers=at(broker.port))
        telemetry = Heard()
        way_in = made(mqtt, Intake(), tmp_path, telemetry)
        await way_in.start()
        await until(lambda: broker.ended >= 2)
        await way_in.stop()
    down = telemetry.of("mqtt_down")[0]
    assert "the broker does not speak MQTT: a packet of" in down["reason"]
    assert reason in down["reason"]
    assert down["exc_info"] is None
    assert "Traceback" not in caplog.text
    assert set(broker.connects) == {5}


# --- the topic of triggers ----------------------------------------------------------------------


@pytest.mark.parametrize("topic", ["$share/nodes/t/in", "t/+", "t/#", "$share/nodes/t/#"])
async def test_the_topic_of_triggers_may_be_shared_or_stand_for_several(topic, mosquitto, tmp_path):
    flows = begun_at(a=("t/in",), b=("u",))
    async with intake_at(mosquitto, tmp_path, flows, topic=topic) as way_in:
        await send(mosquitto, "t/in", b"1")
        await send(mosquitto, "u", b"2")
        await until(lambda: len(way_in.intake.arrivals) == 2)
        await send(mosquitto, "t/in", b"last")
        await until(lambda: len(way_in.intake.arrivals) == 3)
        assert sorted(came(way_in), key=lambda each: each[1]) == [
            (None, b"1"), ("b", b"2"), (None, b"last"),
        ]  # fmt: skip
        assert way_in.intake.set_aside_ == []


async def test_of_two_nodes_that_share_triggers_each_message_goes_to_one(mosquitto, tmp_path):
    for name in "ab":
        (tmp_path / name).mkdir()
    topic = "$share/nodes/t/in"
    async with (
        intake_at(mosquitto, tmp_path / "a", topic=topic) as one,
        intake_at(mosquitto, tmp_path / "b", topic=topic) as other,
    ):
        for half in (range(10), range(10, 20)):  # gmqtt keeps to what Mosquitto takes at once
            await publish(mosquitto, *(b"%d" % n for n in half))
        both = lambda: one.intake.bodies() + other.intake.bodies()  # noqa: E731
        await until(lambda: len(both()) == 20)
        assert set(both()) == {b"%d" % n for n in range(20)}
        assert one.intake.arrivals
        assert other.intake.arrivals


async def test_a_client_id_of_any_characters_can_connect(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path, client_id="Werk Süd ½") as way_in:
        await publish(mosquitto, b"1")
        await until(lambda: way_in.intake.bodies() == [b"1"])
