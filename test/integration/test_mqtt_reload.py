"""What is known after a reload of `mqtt.*` of the messages that came before it."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import pytest
from test_mqtt import Heard, Intake, at, made, until
from test_mqtt_topics import send

from fractal_rm.adapters.lock import FileLock
from fractal_rm.adapters.mqtt import link, redelivery
from fractal_rm.adapters.mqtt.answered import Answered
from fractal_rm.adapters.mqtt.client_id import ClientIdInUse
from fractal_rm.adapters.mqtt.connect_options import Answer, ConnectOptions, OptionsInTurn
from fractal_rm.adapters.mqtt.known_brokers import KnownBrokers
from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.domain.call import Tls
from fractal_rm.domain.trigger import Said
from nodes import NodeProcess, wait_until
from scripted_broker import CLOSE, NOTHING, ScriptedBroker, connack, message


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(redelivery, "QUIET_AFTER_S", 0.1)


class Reloads:
    """An MQTT way in after the other, with one memory."""

    def __init__(self, broker, state):
        self.mqtt = {"topic": "t/in", "brokers": at(broker.port), "client_id": "n"}
        self.intake, self.telemetry, self.known = Intake(), Heard(), KnownBrokers()
        self.state = state

    async def reload(self, **changes):
        """Begin, or end the one that is open and begin another."""
        way_in = made(
            Mqtt(**{**self.mqtt, **changes}), self.intake, self.state, self.telemetry,
            known=self.known,
        )  # fmt: skip
        if hasattr(self, "way_in"):
            await self.way_in.stop()
        self.way_in = way_in
        await way_in.start()

    async def connected(self):
        await until(lambda: self.way_in.status().ok)

    async def came_again(self):
        """What was said of what came again."""
        await until(lambda: self.telemetry.of("mqtt_came_again"))
        return self.telemetry.of("mqtt_came_again")[-1]


@asynccontextmanager
async def reloading(on_connect, tmp_path):
    """A broker that resumes each session, and a way in that is connected to it."""
    broker = ScriptedBroker(on_connect)
    async with broker.listening():
        reloads = Reloads(broker, tmp_path)
        await reloads.reload()
        await reloads.connected()
        yield broker, reloads
        await reloads.way_in.stop()


def resumed(_version):
    return connack(session=True)


async def taken(reloads, *bodies):
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
async def test_what_was_answered_before_a_reload_is_known_after_it(tmp_path, changes):
    async with reloading(resumed, tmp_path) as (broker, reloads):
        broker.send(message("t/in", b"1", 50) + message("t/in", b"2", 51))
        await taken(reloads, b"1", b"2")
        await reloads.reload(**changes)
        await reloads.connected()
        broker.send(message("t/in", b"1", 50, dup=True) + message("t/in", b"3", 52, dup=True))
        assert await reloads.came_again() == {"messages": 2, "known": 1, "may_run_twice": 0}
        assert reloads.intake.bodies().count(b"1") == 1
        assert b"1" not in [arrival.body for arrival in reloads.intake.set_aside_]


async def test_a_broker_that_is_silent_at_mqtt_5_is_not_asked_for_it_again(tmp_path):
    """A CONNECT without an answer would leave nothing certain either."""

    def older(version):
        return CLOSE if version == 5 else connack(session=True, mqtt_5=False)

    async with reloading(older, tmp_path) as (broker, reloads):
        broker.send(message("t/in", b"1", 50, mqtt_5=False))
        await taken(reloads, b"1")
        await reloads.reload(keepalive=30)
        await reloads.connected()
        broker.send(message("t/in", b"1", 50, mqtt_5=False, dup=True))
        assert await reloads.came_again() == {"messages": 1, "known": 1, "may_run_twice": 0}
        assert broker.connects == [5, 5, 4, 4]


async def test_another_session_begins_anew(tmp_path):
    async with reloading(resumed, tmp_path) as (broker, reloads):
        broker.send(message("t/in", b"1", 50))
        await taken(reloads, b"1")
        await reloads.reload(client_id="other")
        await reloads.connected()
        broker.send(message("t/in", b"1", 50, dup=True))
        assert await reloads.came_again() == {"messages": 1, "known": 0, "may_run_twice": 1}


async def test_where_a_reload_cuts_off_a_connect_nothing_is_certain(tmp_path):
    """The broker may have sent messages by that connection."""
    answers = [connack(session=True), NOTHING, connack(session=True)]
    async with reloading(lambda _: answers.pop(0), tmp_path) as (broker, reloads):
        broker.send(message("t/in", b"1", 50))
        await taken(reloads, b"1")
        await reloads.reload(keepalive=30)
        await until(lambda: len(broker.connects) == 2)
        await reloads.reload(keepalive=31)
        await reloads.connected()
        broker.send(message("t/in", b"1", 50, dup=True))
        assert await reloads.came_again() == {"messages": 1, "known": 0, "may_run_twice": 1}


async def test_what_is_still_taken_at_a_reload_after_the_connection_was_lost_is_in_doubt(
    tmp_path, monkeypatch
):
    async with reloading(resumed, tmp_path) as (broker, reloads):
        reloads.intake.go.clear()
        broker.send(message("t/in", b"1", 50))
        await taken(reloads, b"1")
        monkeypatch.setattr(link, "ANSWER_LIMIT_S", 60.0)
        reloads.way_in._link.abort()
        await until(lambda: reloads.way_in._link is None)
        monkeypatch.setattr(link, "ANSWER_LIMIT_S", 0.05)
        await reloads.reload(keepalive=30)
        await reloads.connected()
        reloads.intake.go.set()
        broker.send(message("t/in", b"1", 50, dup=True))
        assert (await reloads.came_again())["may_run_twice"] == 1


def test_a_node_that_is_reloaded_knows_that_what_waited_for_room_is_new(
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
    wait_until(lambda: "mqtt_came_again" in node.log)
    assert "mqtt_came_again messages=1 known=0 may_run_twice=0" in node.log
    components.go_on.set()
    wait_until(lambda: len([run for run in node.runs() if run.state.final]) == 3)
    assert node.stop() == 0


# --- what is kept ---------------------------------------------------------------------------------

ONE = Message(b"1", retained=False)
HERE, MQTT = Broker(), Mqtt(username="u", tls=Tls(cert="c.pem"))


def test_a_session_is_known_by_its_broker_its_client_id_and_its_user():
    brokers = KnownBrokers()
    known = brokers.answered(HERE, "n", MQTT)
    assert brokers.answered(HERE, "n", Mqtt(username="u", tls=Tls(ca="x", cert="c.pem"))) is known
    for another in [
        (Broker("other"), "n", MQTT),
        (HERE, "m", MQTT),
        (HERE, "n", Mqtt(username="v", tls=MQTT.tls)),
        (HERE, "n", Mqtt(username="u", tls=Tls(cert="d.pem"))),
    ]:
        brokers = KnownBrokers()
        known = brokers.answered(HERE, "n", MQTT)
        assert brokers.answered(*another) is not known
        assert brokers.answered(HERE, "n", MQTT) is not known


async def test_a_session_that_another_process_may_have_had_is_forgotten(tmp_path):
    brokers = KnownBrokers()
    known = brokers.answered(HERE, "n", MQTT)
    other = FileLock(tmp_path / "mqtt-client-id.lock")
    with pytest.raises(ClientIdInUse):
        await made(MQTT, Intake(), tmp_path, Heard(), known=brokers).start()
    other.release()
    assert brokers.answered(HERE, "n", MQTT) is not known


def test_what_a_broker_lacked_is_asked_for_after_a_reload_and_its_version_is_not():
    in_turn = OptionsInTurn(None)
    for answer in (Answer.OTHER_VERSION, Answer.OTHER, Answer.NO_STATUS):
        in_turn.learn(answer)
    assert in_turn.options == ConnectOptions(mqtt_5=False, status=False)
    assert in_turn.after_reload().options == ConnectOptions(mqtt_5=False)


def test_silence_before_a_reload_says_nothing_of_the_version_after_it():
    in_turn = OptionsInTurn(None)
    for _ in range(2):
        in_turn.learn(Answer.SILENCE)
    assert not in_turn.options.mqtt_5
    assert in_turn.after_reload().options == ConnectOptions()


def test_packet_ids_are_judged_by_how_many_messages_there_could_be_when_they_came():
    answered = Answered(5_000)
    answered.note([(4_000, ONE)])
    answered.reconfigured(1_000, "")
    answered.resume(mqtt_5=True)
    assert answered.has(4_000, ONE, going_on=True) is None


def test_what_comes_again_in_the_other_version_of_mqtt_is_not_certainly_new():
    """Its properties are left out, or not any more."""
    answered = Answered(10)
    answered.begin(mqtt_5=True)
    answered.note([(50, Message(b"1", retained=False, said=Said(reply_topic="a")))])
    answered.resume(mqtt_5=False)
    assert answered.has(50, ONE, going_on=True) is None
