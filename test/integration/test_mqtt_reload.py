"""Which redelivered messages are recognized after a reload of `mqtt.*`."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest

from fractal_rm.adapters.mqtt import connection, redelivery
from fractal_rm.adapters.mqtt.acknowledged import AcknowledgedMessages
from fractal_rm.adapters.mqtt.broker_memory import BrokerMemory
from fractal_rm.adapters.mqtt.client_id import ClientId, ClientIdInUse
from fractal_rm.adapters.mqtt.connect_options import BrokerOptions, ConnectOptions, ConnectResult
from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.adapters.operating_system import SystemRandom
from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.domain.call import Tls
from fractal_rm.domain.trigger import TriggerMetadata
from mqtt_stage import MqttStage, brokers_at, send, until
from nodes import NodeProcess, wait_until
from scripted_broker import CLOSE, NOTHING, ScriptedBroker, connack, message


@pytest.fixture(autouse=True)
def short_quiet_time(monkeypatch):
    monkeypatch.setattr(redelivery, "QUIET_AFTER_S", 0.1)


class Reloads:
    """Starts MQTT ways in, one after the other, with the same session."""

    def __init__(self, broker, state):
        self.mqtt = {"topic": "t/in", "brokers": brokers_at(broker.port), "client_id": "n"}
        self.state = state
        self.way_in = None

    async def reload(self, **changes):
        """Stop the current way in, if there is one, and start a new one with changed settings."""
        old_way_in = self.way_in
        shared = {name: getattr(old_way_in, name) for name in ("intake", "telemetry", "session")
                  if old_way_in is not None}  # fmt: skip
        self.way_in = MqttStage(self.state, Mqtt(**{**self.mqtt, **changes}), **shared)
        if old_way_in is not None:
            await old_way_in.stop()
        await self.way_in.start()

    @property
    def intake(self):
        return self.way_in.intake

    async def wait_connected(self):
        await until(lambda: self.way_in.status().ok)

    async def last_report(self):
        """The last report on redelivered messages."""
        await until(self.way_in.redelivered)
        return self.way_in.redelivered()[-1]


@asynccontextmanager
async def reloading(on_connect, tmp_path):
    """A broker that resumes each session, and a way in that is connected to it."""
    broker = ScriptedBroker(on_connect)
    async with broker.listening():
        reloads = Reloads(broker, tmp_path)
        await reloads.reload()
        await reloads.wait_connected()
        yield broker, reloads
        await reloads.way_in.stop()


def resume_session(_version):
    return connack(session=True)


async def wait_received(reloads, *bodies):
    await until(lambda: reloads.intake.bodies() == [*bodies])


@pytest.mark.parametrize(
    "changes",
    [
        {"keepalive": 30},
        {"receive_maximum": 7},
        {"password": "p"},
        {"topic": "t/other"},
        {"topic": "$share/g/t/in"},
        {"topic": "t/+"},
    ],
)
async def test_a_message_acknowledged_before_a_reload_is_recognized_after_the_reload(
    tmp_path, changes
):
    async with reloading(resume_session, tmp_path) as (broker, reloads):
        broker.send(message("t/in", b"1", 50) + message("t/in", b"2", 51))
        await wait_received(reloads, b"1", b"2")
        await reloads.reload(**changes)
        await reloads.wait_connected()
        broker.send(message("t/in", b"1", 50, dup=True) + message("t/in", b"3", 52, dup=True))
        assert await reloads.last_report() == {"messages": 2, "recognized": 1, "may_run_twice": 0}
        assert reloads.intake.bodies().count(b"1") == 1
        assert b"1" not in [arrival.body for arrival in reloads.intake.dead_letters]


async def test_after_a_reload_mqtt_5_is_not_tried_again_if_the_broker_did_not_answer_it(
    tmp_path,
):
    """A CONNECT without a CONNACK would make all redelivered messages uncertain."""

    def support_only_3_1_1(version):
        return CLOSE if version == 5 else connack(session=True, mqtt_5=False)

    async with reloading(support_only_3_1_1, tmp_path) as (broker, reloads):
        broker.send(message("t/in", b"1", 50, mqtt_5=False))
        await wait_received(reloads, b"1")
        await reloads.reload(keepalive=30)
        await reloads.wait_connected()
        broker.send(message("t/in", b"1", 50, mqtt_5=False, dup=True))
        assert await reloads.last_report() == {"messages": 1, "recognized": 1, "may_run_twice": 0}
        assert broker.connects == [5, 5, 4, 4]


async def test_in_another_session_no_message_is_recognized(tmp_path):
    async with reloading(resume_session, tmp_path) as (broker, reloads):
        broker.send(message("t/in", b"1", 50))
        await wait_received(reloads, b"1")
        await reloads.reload(client_id="other")
        await reloads.wait_connected()
        broker.send(message("t/in", b"1", 50, dup=True))
        assert await reloads.last_report() == {"messages": 1, "recognized": 0, "may_run_twice": 1}


async def test_after_a_reload_during_a_connect_no_message_is_recognized(tmp_path):
    """The broker may have sent messages on the connection without a CONNACK."""
    answers = [connack(session=True), NOTHING, connack(session=True)]
    async with reloading(lambda _: answers.pop(0), tmp_path) as (broker, reloads):
        broker.send(message("t/in", b"1", 50))
        await wait_received(reloads, b"1")
        await reloads.reload(keepalive=30)
        await until(lambda: len(broker.connects) == 2)
        await reloads.reload(keepalive=31)
        await reloads.wait_connected()
        broker.send(message("t/in", b"1", 50, dup=True))
        assert await reloads.last_report() == {"messages": 1, "recognized": 0, "may_run_twice": 1}


async def test_a_message_that_is_still_being_written_at_a_reload_may_run_twice(
    tmp_path, monkeypatch
):
    async with reloading(resume_session, tmp_path) as (broker, reloads):
        reloads.intake.answers.clear()
        broker.send(message("t/in", b"1", 50))
        await wait_received(reloads, b"1")
        monkeypatch.setattr(connection, "SETTLE_LIMIT_S", 60.0)
        reloads.way_in.connection.abort()
        await until(lambda: reloads.way_in.connection is None)
        monkeypatch.setattr(connection, "SETTLE_LIMIT_S", 0.05)
        await reloads.reload(keepalive=30)
        await reloads.wait_connected()
        reloads.intake.answers.set()
        broker.send(message("t/in", b"1", 50, dup=True))
        assert (await reloads.last_report())["may_run_twice"] == 1


async def test_after_a_reload_the_publisher_uses_the_new_connection(tmp_path):
    def sent():
        return [
            data[-1:] for first, data in broker.received if first == 0x32 and b"answers" in data
        ]

    async with reloading(resume_session, tmp_path) as (broker, reloads):
        publish = reloads.way_in.publish
        await publish("answers", b"1")
        await reloads.reload(keepalive=30)
        await publish("answers", b"2")
        assert sent() == [b"1", b"2"]
        assert len(broker.connects) == 2


def test_after_a_reload_a_message_that_waited_for_room_is_certainly_new(
    mosquitto, tmp_path, components
):
    components.answers["/endpoint1"] = "hang"
    node = NodeProcess(tmp_path / "n", components=components.port, broker=mosquitto.port)
    node.edit("comm", state__max_inflight_runs=1, state__max_waiting_runs=1)
    node.start().wait_connected()
    triggers = [b'{"id_flow": "1", "payload": %d}' % n for n in range(3)]
    asyncio.run(send(mosquitto, node.topic, *triggers))
    wait_until(lambda: len(node.runs()) == 2)
    node.edit("comm", mqtt__keepalive=30)
    wait_until(lambda: "mqtt_redelivered" in node.log)
    assert "mqtt_redelivered messages=1 recognized=0 may_run_twice=0" in node.log
    components.release.set()
    wait_until(lambda: len([run for run in node.runs() if run.state.final]) == 3)
    assert node.stop() == 0


# --- the memory of a session --------------------------------------------------------------------

MESSAGE = Message(b"1", retained=False)
BROKER, MQTT = Broker(), Mqtt(username="u", tls=Tls(cert="c.pem"))


def test_a_session_is_identified_by_broker_client_id_and_user():
    memory = BrokerMemory()
    messages = memory.acknowledged(BROKER, "n", MQTT)
    assert (
        memory.acknowledged(BROKER, "n", Mqtt(username="u", tls=Tls(ca="x", cert="c.pem")))
        is messages
    )
    for another in [
        (Broker("other"), "n", MQTT),
        (BROKER, "m", MQTT),
        (BROKER, "n", Mqtt(username="v", tls=MQTT.tls)),
        (BROKER, "n", Mqtt(username="u", tls=Tls(cert="d.pem"))),
    ]:
        memory = BrokerMemory()
        messages = memory.acknowledged(BROKER, "n", MQTT)
        assert memory.acknowledged(*another) is not messages
        assert memory.acknowledged(BROKER, "n", MQTT) is not messages


async def test_a_session_that_another_process_may_have_used_is_forgotten(tmp_path):
    async with reloading(resume_session, tmp_path) as (broker, reloads):
        broker.send(message("t/in", b"1", 50))
        await wait_received(reloads, b"1")
        await reloads.way_in.stop()
        other = ClientId("n", tmp_path, SystemRandom())
        with pytest.raises(ClientIdInUse):
            await reloads.reload()
        other.release()
        await reloads.reload()
        await reloads.wait_connected()
        broker.send(message("t/in", b"1", 50, dup=True))
        expected = {"messages": 1, "recognized": 0, "may_run_twice": 1}
        assert await reloads.last_report() == expected


def test_a_reload_keeps_the_mqtt_version_and_tries_unsupported_features_again():
    options = BrokerOptions(None)
    for answer in (ConnectResult.OTHER_VERSION, ConnectResult.OTHER, ConnectResult.NO_STATUS):
        options.learn(answer)
    assert options.options == ConnectOptions(mqtt_5=False, status=False)
    assert options.after_reload().options == ConnectOptions(mqtt_5=False)


def test_silence_before_a_reload_does_not_decide_the_version_after_the_reload():
    options = BrokerOptions(None)
    for _ in range(2):
        options.learn(ConnectResult.SILENCE)
    assert not options.options.mqtt_5
    assert options.after_reload().options == ConnectOptions()


def test_after_a_reload_the_larger_of_the_old_and_the_new_window_is_used():
    acknowledged = AcknowledgedMessages(5_000)
    acknowledged.add([(4_000, MESSAGE)])
    acknowledged.reconfigured(1_000, "")
    acknowledged.begin_resumed_session(mqtt_5=True)
    assert acknowledged.was_acknowledged(4_000, MESSAGE, only_redelivered=True) is None


def test_a_message_redelivered_in_the_other_mqtt_version_may_be_a_duplicate():
    """A message loses its properties when it is redelivered in MQTT 3.1.1."""
    acknowledged = AcknowledgedMessages(10)
    acknowledged.begin_new_session(mqtt_5=True)
    acknowledged.add(
        [(50, Message(b"1", retained=False, metadata=TriggerMetadata(reply_topic="a")))]
    )
    acknowledged.begin_resumed_session(mqtt_5=False)
    assert acknowledged.was_acknowledged(50, MESSAGE, only_redelivered=True) is None
