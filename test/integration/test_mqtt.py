"""MQTT with real brokers: no PUBACK before a trigger is durable, and no message is lost."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess

import pytest

from brokers import Broker, need
from dns import SERVER_FAILURE, resolving
from fractal_rm.adapters.mqtt import connection as connection_module
from fractal_rm.adapters.mqtt import unacknowledged
from fractal_rm.adapters.mqtt.client_id import ClientId
from fractal_rm.adapters.mqtt.packets import BEGINNING_BYTES
from fractal_rm.adapters.operating_system import SystemRandom
from fractal_rm.config import model
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.refusals import Busy, Malformed
from mqtt_stage import MqttStage, brokers_at, connected, other_client, trigger, until
from ports import free_port, port_of


async def test_the_newest_version_that_the_broker_supports_is_used(broker, tmp_path):
    async with connected(broker, tmp_path) as way_in:
        assert way_in.status().text.endswith(f"MQTT {broker.protocol}")
        await trigger(broker, b"1", b"2")
        await until(lambda: way_in.intake.bodies() == [b"1", b"2"])


async def test_a_message_that_is_not_durable_is_not_acknowledged_and_is_redelivered(
    broker, tmp_path
):
    async with connected(broker, tmp_path) as way_in:
        way_in.intake.answers.clear()
        await trigger(broker, b"precious")
        await until(lambda: way_in.intake.bodies() == [b"precious"])
        way_in.connection.abort()
        await until(lambda: len(way_in.intake.arrivals) >= 2)
        way_in.intake.answers.set()
        await until(lambda: way_in.all_acknowledged)
        way_in.intake.arrivals.clear()
        way_in.connection.abort()
        await until(lambda: way_in.status().ok)
        await trigger(broker, b"after")
        await until(lambda: b"after" in way_in.intake.bodies())
        assert b"precious" not in way_in.intake.bodies()


async def test_a_late_puback_is_never_sent_on_another_connection(mosquitto, tmp_path):
    async with connected(mosquitto, tmp_path) as way_in:
        way_in.intake.answers.clear()
        await trigger(mosquitto, b"first")
        await until(lambda: len(way_in.intake.arrivals) == 1)
        old_connection = way_in.connection
        old_connection.abort()
        await until(lambda: way_in.status().ok and way_in.connection is not old_connection)
        await until(lambda: len(way_in.intake.arrivals) == 2)
        way_in.intake.answers.set()
        await until(lambda: old_connection.unacknowledged == 0 and way_in.all_acknowledged)
        # Packet ids start again on each connection: a PUBACK on the wrong connection would
        # acknowledge this message before it is durable.
        way_in.intake.answers.clear()
        await trigger(mosquitto, b"second")
        await until(lambda: b"second" in way_in.intake.bodies())
        way_in.connection.abort()
        await until(lambda: way_in.intake.bodies().count(b"second") == 2)
        way_in.intake.answers.set()


async def test_a_temporarily_refused_message_is_not_acknowledged_and_is_tried_again(
    broker, tmp_path
):
    async with connected(broker, tmp_path) as way_in:
        way_in.intake.refusal = Busy("full")
        await trigger(broker, b"x")
        await until(lambda: len(way_in.intake.arrivals) == 1)
        way_in.intake.refusal = None
        way_in.intake.room.set()
        await until(lambda: len(way_in.intake.arrivals) == 2)
        assert way_in.intake.dead_letters == []


async def test_a_permanently_refused_message_becomes_a_dead_letter_and_is_acknowledged(
    broker, tmp_path
):
    async with connected(broker, tmp_path) as way_in:
        way_in.intake.refusal = Malformed("no")
        await trigger(broker, b"\xff\xfe", b"", b"plain text")
        await until(lambda: len(way_in.intake.dead_letters) == 3)
        way_in.intake.refusal = None
        way_in.connection.abort()
        await trigger(broker, b"next")
        await until(lambda: b"next" in way_in.intake.bodies())
        assert len(way_in.intake.arrivals) == 4


async def test_receive_maximum_limits_the_number_of_unacknowledged_messages(mosquitto, tmp_path):
    async with connected(mosquitto, tmp_path, receive_maximum=3) as way_in:
        way_in.intake.answers.clear()
        await trigger(mosquitto, *[b"%d" % n for n in range(10)])
        await until(lambda: way_in.connection.reading_paused)
        await until(lambda: len(way_in.intake.arrivals) >= 3)
        assert len(way_in.intake.arrivals) == 3
        way_in.intake.answers.set()
        await until(lambda: len(way_in.intake.arrivals) == 10)


async def test_too_many_messages_pause_reading_if_the_protocol_has_no_receive_maximum(tmp_path):
    broker = Broker("nats", tmp_path).start()
    async with connected(broker, tmp_path, receive_maximum=3) as way_in:
        way_in.intake.answers.clear()
        await trigger(broker, *[b"%d" % n for n in range(10)])
        await until(lambda: way_in.connection.reading_paused)
        await until(lambda: len(way_in.intake.arrivals) == 3)
        way_in.intake.answers.set()
        await until(lambda: len(set(way_in.intake.bodies())) == 10)
    broker.stop()


async def test_reading_pauses_while_too_many_bytes_are_unacknowledged(
    mosquitto, tmp_path, monkeypatch
):
    monkeypatch.setattr(unacknowledged, "MAX_BYTES", 1_000_000)
    async with connected(mosquitto, tmp_path) as way_in:
        way_in.intake.answers.clear()
        await trigger(mosquitto, *[b"%d" % n * 200_000 for n in range(10)])
        await until(lambda: way_in.connection.reading_paused)
        await until(lambda: len(way_in.intake.arrivals) == 5)
        way_in.intake.answers.set()
        await until(lambda: len(way_in.intake.arrivals) == 10)


async def test_the_dead_letter_of_a_very_large_message_contains_only_its_beginning(
    broker, tmp_path
):
    async with connected(broker, tmp_path) as way_in:
        await trigger(broker, b"begin" + b"x" * 900_000, b"small")
        await until(lambda: way_in.intake.bodies() == [b"small"])
        await until(lambda: way_in.intake.codes == ["too-large"])
        body = way_in.intake.dead_letters[0].body
        assert body.startswith(b"begin")
        assert 64 * 1024 <= len(body) <= BEGINNING_BYTES


async def test_after_an_internal_error_the_message_is_a_dead_letter_and_the_next_is_received(
    mosquitto, tmp_path
):
    async with connected(mosquitto, tmp_path, receive_maximum=1) as way_in:
        way_in.intake.refusal = RuntimeError("an internal error")
        await trigger(mosquitto, b"unlucky")
        await until(lambda: way_in.intake.codes == ["internal"])
        assert "message_failed" in way_in.telemetry.events
        way_in.intake.refusal = None
        await trigger(mosquitto, b"next")
        await until(lambda: way_in.intake.bodies() == [b"unlucky", b"next"])


async def test_a_message_that_is_being_written_during_a_stop_is_acknowledged(broker, tmp_path):
    async with connected(broker, tmp_path) as way_in:
        way_in.intake.answers.clear()
        await trigger(broker, b"1", b"2", b"3")
        await until(lambda: len(way_in.intake.arrivals) == 3)
        connection = way_in.connection
        stopping = asyncio.create_task(way_in.stop())
        await until(lambda: connection.reading_paused)
        way_in.intake.answers.set()
        await stopping
    async with connected(broker, tmp_path) as way_in:
        await trigger(broker, b"after")
        await until(lambda: b"after" in way_in.intake.bodies())
        assert way_in.intake.bodies() == [b"after"]


async def test_a_message_that_waits_for_room_does_not_delay_a_stop_and_is_redelivered(
    broker, tmp_path, monkeypatch
):
    # With this limit, a stop that waits for the message does not return in time.
    monkeypatch.setattr(connection_module, "SETTLE_LIMIT_S", 3600)
    async with connected(broker, tmp_path) as way_in:
        way_in.intake.refusal = Busy("full")
        await trigger(broker, b"patient")
        await until(lambda: way_in.intake.waiting == 1)
        await way_in.stop()
    async with connected(broker, tmp_path) as way_in:
        await until(lambda: way_in.intake.bodies() == [b"patient"])


async def test_the_reason_is_reported_if_the_broker_does_not_speak_mqtt(tmp_path):
    async def send_garbage(reader, writer):
        await reader.read(1)
        writer.write(b"\x20\xff\xff\xff\xff\x01")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(send_garbage, "127.0.0.1", free_port()) as server:
        mqtt = Mqtt(brokers=brokers_at(port_of(server)))
        way_in = MqttStage(tmp_path, mqtt)
        await way_in.start()
        await until(lambda: "mqtt_disconnected" in way_in.telemetry.events)
        assert "does not speak MQTT" in way_in.status().text
        await way_in.stop()


async def test_an_unexpected_error_while_connecting_is_reported_and_tried_again(
    mosquitto, tmp_path
):
    mqtt = Mqtt(
        topic="t/in", brokers=brokers_at(mosquitto.port), username="u", password="p" * 70_000
    )
    way_in = MqttStage(tmp_path, mqtt)
    await way_in.start()  # this password is too long for an MQTT packet
    await until(lambda: way_in.telemetry.events.count("mqtt_disconnected") > 1)
    assert way_in.telemetry.fields_of("mqtt_disconnected")[0]["exc_info"] is not None
    assert "error: " in way_in.status().text
    await way_in.stop()


async def test_the_reason_is_reported_if_the_name_of_the_broker_does_not_resolve(tmp_path):
    mqtt = Mqtt(brokers=(model.Broker("broker.plant"),))
    async with resolving(tmp_path, {"broker.plant": SERVER_FAILURE}) as (_, names):
        way_in = MqttStage(tmp_path, mqtt, names=names)
        await way_in.start()
        await until(lambda: "mqtt_disconnected" in way_in.telemetry.events)
        assert "the name broker.plant did not resolve" in way_in.status().text
        await way_in.stop()


async def test_a_broker_is_found_by_its_name(mosquitto, tmp_path):
    mqtt = Mqtt(brokers=(model.Broker("broker.plant", mosquitto.port),))
    answers = {"broker.plant": ["127.0.0.9", "127.0.0.1"]}
    async with resolving(tmp_path, answers) as (_, names):
        way_in = MqttStage(tmp_path, mqtt, names=names)
        await way_in.start()
        await until(lambda: way_in.status().ok)
        await way_in.stop()


async def test_an_mqtt_5_user_property_is_the_trigger_id(mosquitto, tmp_path):
    async with connected(mosquitto, tmp_path) as way_in:
        await trigger(mosquitto, b"1", user_property=("Idempotency-Key", "k"))
        await trigger(mosquitto, b"2", user_property=("id", "j"))
        await trigger(mosquitto, b"3", user_property=("other", "x"))
        await until(lambda: len(way_in.intake.arrivals) == 3)
        assert [arrival.key for arrival in way_in.intake.arrivals] == ["k", "j", None]


async def test_a_message_at_qos_0_is_received(broker, tmp_path):
    async with connected(broker, tmp_path) as way_in, other_client(broker) as client:
        client.publish("t/in", b"at QoS 0", qos=0)
        await until(lambda: way_in.intake.bodies() == [b"at QoS 0"])


@pytest.mark.parametrize("retained", [False, True])
async def test_retained_messages_start_runs_only_if_the_key_retained_is_configured(
    broker, tmp_path, retained
):
    async with other_client(broker) as client:
        client.publish("t/in", b"old", qos=1, retain=True)
        await client.storage.wait_empty()
    async with connected(broker, tmp_path, retained=retained) as way_in:
        await trigger(broker, b"new")
        await until(lambda: b"new" in way_in.intake.bodies())
        assert (b"old" in way_in.intake.bodies()) is retained


async def test_messages_sent_while_the_node_is_down_are_delivered_after_its_start(broker, tmp_path):
    async with connected(broker, tmp_path):
        pass
    await trigger(broker, b"meanwhile")
    async with connected(broker, tmp_path) as way_in:
        await until(lambda: way_in.intake.bodies() == [b"meanwhile"])


async def test_the_node_connects_when_a_broker_that_was_down_starts(tmp_path):
    broker = Broker("mosquitto", tmp_path)
    mqtt = Mqtt(topic="t/in", brokers=brokers_at(broker.port))
    way_in = MqttStage(tmp_path, mqtt)
    await way_in.start()
    await until(lambda: "mqtt_disconnected" in way_in.telemetry.events)
    assert "refused" in way_in.status().text or "Connect call failed" in way_in.status().text
    broker.start()
    await until(lambda: way_in.status().ok)
    for n in range(3):
        broker.stop(signal.SIGKILL)
        await until(lambda: not way_in.status().ok)
        broker.start()
        await until(lambda: way_in.status().ok)
        await trigger(broker, b"%d" % n)
        await until(lambda n=n: b"%d" % n in way_in.intake.bodies())
    await way_in.stop()
    broker.stop()


@pytest.mark.slow
async def test_a_dead_connection_is_detected_within_one_and_a_half_keepalives(mosquitto, tmp_path):
    async with connected(mosquitto, tmp_path, keepalive=2) as way_in:
        mosquitto.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: not way_in.status().ok, within_s=5)
            assert "silent" in way_in.status().text
        finally:
            mosquitto.send_signal(signal.SIGCONT)
        await until(lambda: way_in.status().ok)


async def test_the_status_of_the_node_is_published(broker, tmp_path):
    messages = []
    async with other_client(broker) as watcher:
        watcher.on_message = lambda _c, topic, body, _q, _p: messages.append(
            (topic, json.loads(body))
        )
        watcher.subscribe("fractal-rm/+/status", qos=1)
        async with connected(broker, tmp_path, client_id="node-a") as way_in:
            topic = "fractal-rm/node-a/status"
            await until(lambda: messages[-1:] == [(topic, {"state": "online"})])
            way_in.connection.abort()
            await until(lambda: (topic, {"state": "lost"}) in messages)
            await until(lambda: messages[-1:] == [(topic, {"state": "online"})])
        await until(lambda: messages[-1:] == [(topic, {"state": "stopped"})])


async def test_user_name_and_password_are_sent_to_the_broker(tmp_path):
    need("mosquitto_passwd")
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(tmp_path / "passwd"), "node", "secret"], check=True
    )
    broker = Broker("mosquitto", tmp_path)
    text = broker.config.read_text().replace("allow_anonymous true", "allow_anonymous false")
    broker.config.write_text(text + f"password_file {tmp_path}/passwd\n")
    broker.start()
    async with connected(broker, tmp_path, username="node", password="secret"):
        pass
    mqtt = Mqtt(brokers=brokers_at(broker.port), username="node", password="wrong")
    way_in = MqttStage(tmp_path, mqtt)
    await way_in.start()
    await until(lambda: "mqtt_disconnected" in way_in.telemetry.events)
    assert "not authorized" in way_in.status().text
    await way_in.stop()
    broker.stop()


async def test_a_state_folder_that_was_moved_away_is_not_created_again(mosquitto, tmp_path):
    folder, moved = tmp_path / "state", tmp_path / "moved"
    folder.mkdir()
    async with connected(mosquitto, folder) as way_in:
        folder.rename(moved)
        way_in.connection.abort()
        await until(lambda: str(folder) in way_in.status().text)
        with pytest.raises(FileNotFoundError):
            ClientId(None, folder, SystemRandom())
        ends = way_in.telemetry.fields_of("mqtt_disconnected")
        assert all(end["exc_info"] is None for end in ends)
        moved.rename(folder)
        await until(lambda: way_in.status().ok)
