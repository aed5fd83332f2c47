"""A broker that ends the connection: what of ours is sent again, and what of it comes again."""

from __future__ import annotations

import asyncio

import pytest
from test_mqtt import Heard, Intake, at, intake_at, made, publish, until
from test_mqtt_topics import begun_at, listener

from brokers import Broker
from fractal_rm.adapters.mqtt import publisher as publisher_module
from fractal_rm.adapters.mqtt import redelivery
from fractal_rm.adapters.mqtt.answered import Answered
from fractal_rm.adapters.mqtt.publish_packet import Message
from fractal_rm.adapters.mqtt.publisher import MqttPublisher
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.refusals import Busy
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Said
from nodes import NodeProcess, wait_until
from scripted_broker import PUBACK, ScriptedBroker, connack, message

TOO_LARGE = b"x" * 3_000  # for the broker below; MQTT 3.1.1 does not say what a broker takes
CUTTING = "max_packet_size 2000\n"


@pytest.fixture
def cutting(tmp_path):
    """A Mosquitto that ends the connection of who sends it more than 2,000 bytes."""
    broker = Broker("mosquitto", tmp_path, CUTTING).start()
    yield broker
    broker.stop()


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(publisher_module, "CALM_S", 0.0)
    monkeypatch.setattr(redelivery, "QUIET_AFTER_S", 0.3)


# --- what leaves -------------------------------------------------------------------------------


async def test_a_message_that_ends_the_connection_is_given_up_and_no_other(cutting, tmp_path):
    leaves = MqttPublisher()
    held = intake_at(cutting, tmp_path, publisher=leaves, version="3.1.1")
    async with held as way_in, listener(cutting, "answers") as heard:
        small = [leaves.publish("answers", b"%d" % n) for n in range(40)]
        large = [leaves.publish("answers", TOO_LARGE + b"%d" % n) for n in range(3)]
        first, *failures = await asyncio.gather(
            small[0], *large, *small[1:], return_exceptions=True
        )
        assert [first, *failures[3:]] == [None] * 40
        for failure in failures[:3]:
            assert failure.final
            assert "ended the connection 2 times when only this was sent" in str(failure)
        await until(lambda: {int(body) for body, _ in heard} == set(range(40)))
        assert way_in.telemetry.events.count("mqtt_down") <= 2 + 2 * 3
        await leaves.publish("answers", b"last")
        assert not leaves._doubted


@pytest.mark.parametrize("in_words", [False, True])
async def test_after_an_end_for_a_message_what_comes_again_is_acknowledged_before_the_next_one(
    in_words, tmp_path, monkeypatch
):
    """Else triggers whose messages end the connection run again after each end, without end."""
    monkeypatch.setattr(publisher_module, "CALM_S", 0.5)
    broker = ScriptedBroker(lambda _: connack(session=True))
    always = broker._acknowledged

    def acknowledged(first, data):
        if b"bad" not in data:
            return always(first, data)
        broker.after = message("t/in", b"1", 1, dup=True)
        refusal = b"\x40\x03" + data[9:11] + b"\x87"
        return refusal * in_words + b"\xe0\0"

    broker._acknowledged = acknowledged
    leaves = MqttPublisher()
    async with broker.listening(), intake_at(broker, tmp_path, publisher=leaves) as way_in:
        way_in.intake.go.clear()
        bad = asyncio.create_task(leaves.publish("answers", b"bad"))
        await until(lambda: way_in._link is None)
        good = asyncio.create_task(leaves.publish("answers", b"good"))
        await until(lambda: way_in.status().ok)
        way_in.intake.go.set()
        await good
        sent = [first for first, data in broker.received if data[:2] == b"\0\1" or b"good" in data]
        assert sent[-2:] == [PUBACK, 0x32]
        bad.cancel()
        await asyncio.gather(bad, return_exceptions=True)


async def test_an_end_with_a_reason_of_its_own_is_no_message_s_fault(tmp_path, monkeypatch):
    monkeypatch.setattr(publisher_module, "WAIT_FOR_LINK_S", 20.0)
    shut_down = b"\xe0\x01\x8b"
    broker = ScriptedBroker(lambda _: connack())
    sent = []

    def acknowledged(first, data):
        if first & 0xF0 == 0x30 and b"answers" in data:
            sent.append(data)
            return shut_down if len(sent) < 4 else b"\x40\x02" + data[9:11]
        return real(first, data)

    real, broker._acknowledged = broker._acknowledged, acknowledged
    leaves = MqttPublisher()
    async with broker.listening(), intake_at(broker, tmp_path, publisher=leaves):
        await leaves.publish("answers", b"1")
        assert len(sent) == 4


async def test_a_subscription_that_ends_the_connection_is_left_out_and_triggers_come(
    cutting, tmp_path
):
    large = "f/" + "x" * 2_500
    flows = begun_at(a=(large,), b=("small",))
    async with intake_at(cutting, tmp_path, version="3.1.1") as way_in:
        way_in._flows = lambda: flows
        way_in.reconfigured()
        await until(lambda: "topic_refused" in way_in.telemetry.events)
        await until(lambda: large in way_in.status().text)
        assert not way_in.status().ok
        await publish(cutting, b"1")
        await until(lambda: way_in.intake.bodies() == [b"1"])
        (said,) = way_in.telemetry.of("topic_refused")
        assert said["reason"] == "the broker ends the connection at it"
        assert way_in.telemetry.events.count("mqtt_down") == 2


def test_a_run_whose_message_ends_the_connection_fails_and_others_do_not(
    cutting, tmp_path, components
):
    node = NodeProcess(tmp_path / "n", components=components.port, broker=cutting.port)
    node.edit("comm", mqtt__version="3.1.1")
    (node.config / "flows.conf").write_text("1\nPUBLISH answers payload\n")
    node.start().wait_connected()
    for n in range(5):
        node.trigger("1", f"{n}")
        node.trigger("1", "0" * 3_000 if n == 0 else "small")
    wait_until(lambda: all(run.state.final for run in node.runs()))
    (failed,) = node.runs(State.FAILED)
    assert "so it is given up (the broker closed the connection)" in failed.reason
    assert len(node.runs(State.SUCCEEDED)) == 9
    assert node.stop() == 0


# --- what comes again --------------------------------------------------------------------------


async def answered_late(way_in, broker, *bodies):
    """Messages that are durable only after their connection has ended."""
    way_in.intake.go.clear()
    before, told = len(way_in.intake.arrivals), len(way_in.telemetry.of("mqtt_came_again"))
    await publish(broker, *bodies)
    await until(lambda: len(way_in.intake.arrivals) == before + len(bodies))
    way_in._link.abort()
    way_in.intake.go.set()
    await until(lambda: not way_in.status().ok)
    await until(lambda: len(way_in.telemetry.of("mqtt_came_again")) > told)


async def past_the_first(way_in, broker):
    """A session in which the broker's packet ids have gone on beyond those of one connection."""
    await publish(broker, b"1", b"2", b"3")
    await until(lambda: len(way_in.intake.arrivals) == 3)
    way_in._link.abort()
    await until(lambda: not way_in.status().ok)
    await until(lambda: way_in.status().ok)
    await publish(broker, b"4")
    await until(lambda: len(way_in.intake.arrivals) == 4)


async def test_what_was_durable_before_the_connection_ended_is_not_taken_again(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path) as way_in:
        await past_the_first(way_in, mosquitto)
        way_in.intake.arrivals.clear()
        await answered_late(way_in, mosquitto, b"same", b"same", b"other")
        assert way_in.intake.bodies() == [b"same", b"same", b"other"]
        last = way_in.telemetry.of("mqtt_came_again")[-1]
        assert last == {"messages": 3, "known": 3, "may_run_twice": 0}
        way_in._link.abort()  # they are acknowledged now, and do not come a third time
        await until(lambda: not way_in.status().ok)
        await publish(mosquitto, b"after")
        await until(lambda: b"after" in way_in.intake.bodies())
        assert way_in.intake.bodies() == [b"same", b"same", b"other", b"after"]


async def test_an_equal_message_that_is_new_is_a_run_of_its_own(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path) as way_in:
        await past_the_first(way_in, mosquitto)
        way_in.intake.arrivals.clear()
        await answered_late(way_in, mosquitto, b"same")
        await publish(mosquitto, b"same")
        await until(lambda: way_in.intake.bodies() == [b"same", b"same"])


async def test_where_it_is_not_certain_it_is_taken_again_and_counted(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path) as way_in:  # packet ids 1 and 2 prove nothing
        await answered_late(way_in, mosquitto, b"1", b"2")
        assert way_in.intake.bodies() == [b"1", b"2"] * 2
        assert way_in.telemetry.of("mqtt_came_again") == [
            {"messages": 2, "known": 0, "may_run_twice": 2}
        ]


async def test_what_an_earlier_process_may_have_taken_is_counted(mosquitto, tmp_path):
    first = made(Mqtt(topic="t/in", brokers=at(mosquitto.port)), Intake(), tmp_path, Heard())
    first._intake.go.clear()
    await first.start()
    await until(lambda: first.status().ok)
    await publish(mosquitto, b"1")
    await until(lambda: first._intake.arrivals)
    first._link.abort()
    await first.stop()
    async with intake_at(mosquitto, tmp_path) as way_in:
        await until(lambda: way_in.telemetry.of("mqtt_came_again"))
        assert way_in.intake.bodies() == [b"1"]
        assert way_in.telemetry.of("mqtt_came_again")[0]["may_run_twice"] == 1
        assert way_in.telemetry.of("mqtt_connected")[0]["session"] == "resumed"


async def test_what_a_broker_repeats_on_the_same_connection_is_the_same_message(tmp_path):
    """NATS servers do so by the clock, while it waits here and when the PUBACK is on its way."""

    def sent(body, *, dup=True):
        broker.send(message("t/in", body, 1, dup=dup))

    def pubacks():
        return broker.received.count((PUBACK, b"\0\1"))

    broker = ScriptedBroker(lambda _: connack())
    async with broker.listening(), intake_at(broker, tmp_path) as way_in:
        taken, intake = way_in.intake.bodies, way_in.intake
        intake.refusal = Busy("full")
        sent(b"1", dup=False)
        sent(b"1")
        await until(lambda: way_in.telemetry.of("mqtt_came_again"))
        assert taken() == [b"1"]
        intake.refusal = None
        intake.room.set()
        await until(lambda: pubacks() == 1)
        sent(b"1")
        await until(lambda: pubacks() == 2)
        assert taken() == [b"1", b"1"]  # offered twice
        sent(b"other")
        await until(lambda: pubacks() == 3)
        assert taken() == [b"1", b"1", b"other"]
        await until(lambda: len(way_in.telemetry.of("mqtt_came_again")) == 2)
        assert way_in.telemetry.of("mqtt_came_again") == [
            {"messages": 1, "known": 1, "may_run_twice": 0},
            {"messages": 2, "known": 1, "may_run_twice": 1},
        ]
        sent(b"other")
        await until(lambda: pubacks() == 4)
        assert taken() == [b"1", b"1", b"other"]


async def test_what_comes_again_after_a_pause_is_known_too(tmp_path):
    broker = ScriptedBroker(lambda _: connack(session=True))
    async with broker.listening(), intake_at(broker, tmp_path) as way_in:
        broker.send(message("t/in", b"1", 50) + message("t/in", b"2", 51))
        await until(lambda: way_in.intake.bodies() == [b"1", b"2"])
        way_in._link.abort()
        await until(lambda: len(broker.connects) == 2 and way_in.status().ok)
        for told, (packet_id, body) in enumerate([(50, b"1"), (51, b"2")], start=1):
            broker.send(message("t/in", body, packet_id, dup=True))
            await until(lambda: len(way_in.telemetry.of("mqtt_came_again")) == told)  # noqa: B023
        assert way_in.intake.bodies() == [b"1", b"2"]


async def test_what_a_connection_that_was_cut_at_once_may_have_brought_is_in_doubt(tmp_path):
    """RabbitMQ sends it by the next one, under another packet id."""
    broker = ScriptedBroker(lambda _: connack(session=True))
    async with broker.listening(), intake_at(broker, tmp_path) as way_in:
        broker.send(message("t/in", b"1", 1))
        await until(lambda: way_in.intake.bodies() == [b"1"])
        for connects in (2, 3):
            way_in._link.abort()
            await until(lambda: len(broker.connects) == connects and way_in.status().ok)  # noqa: B023
        broker.send(message("t/in", b"1", 2, dup=True))
        await until(lambda: way_in.telemetry.of("mqtt_came_again"))
        assert way_in.telemetry.of("mqtt_came_again")[0]["may_run_twice"] == 1


async def test_brokers_that_do_not_keep_to_receive_maximum_have_nothing_run_twice(tmp_path):
    """MQTT 3.1.1 does not tell it, and Mosquitto exceeds it after a connection that was cut."""
    broker = ScriptedBroker(lambda _: connack(session=True, mqtt_5=False))
    of_3_1_1 = {"version": "3.1.1", "receive_maximum": 1}

    def sent(body, packet_id, *, dup=False):
        broker.send(message("t/in", body, packet_id, mqtt_5=False, dup=dup))

    async with broker.listening(), intake_at(broker, tmp_path, **of_3_1_1) as way_in:
        sent(b"1", 50)
        sent(b"2", 51)
        await until(lambda: way_in.intake.bodies() == [b"1", b"2"])
        way_in._link.abort()
        await until(lambda: len(broker.connects) == 2 and way_in.status().ok)
        sent(b"new", 52)
        sent(b"1", 50, dup=True)
        await until(lambda: way_in.telemetry.of("mqtt_came_again"))
        assert way_in.telemetry.of("mqtt_came_again")[0]["known"] == 1
        assert way_in.intake.bodies() == [b"1", b"2", b"new"]


def resumed(answered, *came, mqtt_5=True):
    """On a new connection, what of these is known."""
    answered.resume(mqtt_5=mqtt_5)
    return [answered.has(*each, going_on=True) for each in came]


def noted(answered, *batch):
    answered.note(batch)
    return answered


ONE, TWO = Message(b"1", retained=False), Message(b"2", retained=False)


def test_a_broker_that_may_use_the_lowest_free_packet_id_is_not_believed():
    answered = noted(Answered(10), (1, ONE))
    assert resumed(answered, (1, ONE)) == [None]
    answered.first_new(1, came=1)
    assert resumed(noted(answered, (1, ONE)), (1, ONE)) == [None]
    answered.first_new(2, came=1)
    assert resumed(noted(answered, (1, ONE)), (1, ONE), (1, TWO), (2, ONE)) == [True, False, False]


def test_what_may_have_come_under_another_packet_id_is_in_doubt():
    answered = noted(Answered(10), (1, ONE))
    answered.resume(mqtt_5=False)
    assert resumed(noted(answered, (1, ONE)), (2, ONE), (2, TWO), mqtt_5=False) == [None, False]


def test_what_comes_again_only_on_a_later_connection_is_in_doubt():
    answered = noted(Answered(10), (11, ONE), (12, TWO))
    assert resumed(answered, (12, TWO)) == [True]
    noted(answered, (12, TWO))  # acknowledged once more
    assert resumed(answered, (11, ONE), (12, TWO), (11, TWO)) == [None, True, False]
    answered.incomplete()
    assert resumed(answered, (12, TWO)) == [None]


def test_more_messages_than_can_be_without_an_answer_show_that_packet_ids_go_on():
    assert resumed(noted(Answered(10), (11, ONE)), (11, ONE)) == [True]
    older = Answered(10)  # MQTT 3.1.1 does not tell the broker how many
    older.begin(mqtt_5=False)
    assert resumed(noted(older, (11, ONE)), (11, ONE), mqtt_5=False) == [None]


def test_only_the_expiry_interval_may_differ():
    def told(**said):
        return Message(b"1", retained=False, said=Said(**said))

    answered = Answered(1)
    answered.resume(mqtt_5=True)
    noted(answered, (7, told(left_ms=9_000, reply_topic="a")))
    again = (7, told(left_ms=8_000, reply_topic="a"))
    assert resumed(answered, again, (7, told(left_ms=8_000, reply_topic="b"))) == [True, False]


def test_a_session_that_the_broker_has_lost_is_forgotten():
    answered = noted(Answered(1), (7, ONE))
    answered.forget()
    assert resumed(answered, (7, ONE)) == [None]


def test_of_a_session_that_began_here_all_is_known_that_was_answered():
    answered = Answered(1)
    answered.begin(mqtt_5=True)
    assert resumed(noted(answered, (7, ONE)), (7, ONE), (8, TWO)) == [True, False]


def test_so_much_is_kept_as_the_broker_can_lack_and_what_is_forgotten_is_in_doubt():
    answered = Answered(10)
    for packet_id in range(1, 31):
        noted(answered, (packet_id, ONE))
    answered.resume(mqtt_5=True)
    assert sorted(answered._before) == list(range(21, 31))
    large = Message(b"x" * 3_000_000, retained=False)
    noted(answered, (31, large))
    noted(answered, (32, large))
    assert resumed(answered, (31, large), (32, large)) == [None, True]
    assert resumed(answered, (31, large)) == [False]


async def test_a_full_node_whose_connection_was_cut_is_connected_again_before_there_is_room(
    mosquitto, tmp_path
):
    async with intake_at(mosquitto, tmp_path, receive_maximum=2) as way_in:
        way_in.intake.refusal = Busy("full")
        await publish(mosquitto, b"1", b"2", b"3")
        await until(lambda: len(way_in.intake.arrivals) == 2)
        way_in._link.abort()
        await until(lambda: len(way_in.telemetry.of("mqtt_connected")) == 2)
        assert way_in.status().ok
