"""When the broker closes the connection, both sides send unacknowledged messages again."""

from __future__ import annotations

import asyncio

import pytest

from brokers import Broker
from fractal_rm.adapters.mqtt import publisher as publisher_module
from fractal_rm.adapters.mqtt import redelivery
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.refusals import Busy
from fractal_rm.domain.state import State
from mqtt_stage import MqttStage, brokers_at, connected, flows_on, listener, trigger, until
from nodes import NodeProcess, wait_until
from scripted_broker import PUBACK, ScriptedBroker, answering, connack, message

# More than the limit of the broker. In MQTT 3.1.1, the broker cannot announce the limit.
TOO_LARGE = b"x" * 3_000
LIMIT_2000 = "max_packet_size 2000\n"


@pytest.fixture
def cutting_broker(tmp_path):
    """A Mosquitto that closes the connection when it gets a packet of more than 2,000 bytes."""
    broker = Broker("mosquitto", tmp_path, LIMIT_2000).start()
    yield broker
    broker.stop()


@pytest.fixture(autouse=True)
def short_times(monkeypatch):
    monkeypatch.setattr(publisher_module, "PAUSE_S", 0.0)
    monkeypatch.setattr(redelivery, "QUIET_AFTER_S", 0.3)


# --- published messages ------------------------------------------------------------------------


async def test_only_the_message_that_ends_the_connection_fails(cutting_broker, tmp_path):
    connection = connected(cutting_broker, tmp_path, version="3.1.1")
    async with connection as way_in, listener(cutting_broker, "answers") as received:
        small = [way_in.publish("answers", b"%d" % n) for n in range(40)]
        large = [way_in.publish("answers", TOO_LARGE + b"%d" % n) for n in range(3)]
        first, *failures = await asyncio.gather(
            small[0], *large, *small[1:], return_exceptions=True
        )
        assert [first, *failures[3:]] == [None] * 40
        for failure in failures[:3]:
            assert failure.final
            assert "closed the connection 2 times while only this message was" in str(failure)
        await until(lambda: {int(body) for body, _ in received} == set(range(40)))
        assert way_in.telemetry.events.count("mqtt_disconnected") <= 2 + 2 * 3
        await way_in.publish("answers", b"last")
        assert way_in.session.publisher.suspected_count == 0


@pytest.mark.parametrize("with_puback", [False, True])
async def test_redelivered_triggers_are_acknowledged_before_the_next_message_is_published(
    with_puback, tmp_path, monkeypatch
):
    """Otherwise, a trigger whose reply ends the connection would run again after each reconnect."""
    monkeypatch.setattr(publisher_module, "PAUSE_S", 0.5)

    def end_at_bad(_first, data):
        if b"bad" not in data:
            return None
        broker.after_suback = message("t/in", b"1", 1, dup=True)
        refusal = b"\x40\x03" + data[9:11] + b"\x87"
        return refusal * with_puback + b"\xe0\0"

    broker = answering(ScriptedBroker(lambda _: connack(session=True)), end_at_bad)
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        way_in.intake.answers.clear()
        bad_publish = asyncio.create_task(way_in.publish("answers", b"bad"))
        await until(lambda: way_in.connection is None)
        good_publish = asyncio.create_task(way_in.publish("answers", b"good"))
        await until(lambda: way_in.status().ok)
        way_in.intake.answers.set()
        await good_publish
        first_bytes = [
            first for first, data in broker.received if data[:2] == b"\0\1" or b"good" in data
        ]
        assert first_bytes[-2:] == [PUBACK, 0x32]
        bad_publish.cancel()
        await asyncio.gather(bad_publish, return_exceptions=True)


async def test_a_message_is_not_suspected_if_the_broker_gives_another_reason_for_closing(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(publisher_module, "WAIT_FOR_CONNECTION_S", 20.0)
    shut_down = b"\xe0\x01\x8b"
    published = []

    def end_three_times(first, data):
        if first & 0xF0 != 0x30 or b"answers" not in data:
            return None
        published.append(data)
        return shut_down if len(published) < 4 else b"\x40\x02" + data[9:11]

    broker = answering(ScriptedBroker(lambda _: connack()), end_three_times)
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        await way_in.publish("answers", b"1")
        assert len(published) == 4


async def test_a_subscription_that_ends_the_connection_is_left_out_and_triggers_are_received(
    cutting_broker, tmp_path
):
    large = "f/" + "x" * 2_500
    flows = flows_on(a=(large,), b=("small",))
    async with connected(cutting_broker, tmp_path, version="3.1.1") as way_in:
        way_in.change_flows(flows)
        await until(lambda: "topic_refused" in way_in.telemetry.events)
        await until(lambda: large in way_in.status().text)
        assert not way_in.status().ok
        await trigger(cutting_broker, b"1")
        await until(lambda: way_in.intake.bodies() == [b"1"])
        (refused,) = way_in.telemetry.fields_of("topic_refused")
        assert refused["reason"] == "the broker closes the connection when this filter is requested"
        assert way_in.telemetry.events.count("mqtt_disconnected") == 2


def test_a_run_whose_message_ends_the_connection_fails_and_other_runs_succeed(
    cutting_broker, tmp_path, components
):
    node = NodeProcess(tmp_path / "n", components=components.port, broker=cutting_broker.port)
    node.edit("comm", mqtt__version="3.1.1")
    (node.config / "flows.conf").write_text("1\nPUBLISH answers payload\n")
    node.start().wait_connected()
    for n in range(5):
        node.trigger("1", f"{n}")
        node.trigger("1", "0" * 3_000 if n == 0 else "small")
    wait_until(lambda: all(run.state.final for run in node.runs()))
    (failed,) = node.runs(State.FAILED)
    assert "so the message is not sent again (the broker closed the connection)" in failed.reason
    assert len(node.runs(State.SUCCEEDED)) == 9
    assert node.stop() == 0


# --- redelivered messages ----------------------------------------------------------------------


async def send_and_lose_connection(way_in, broker, *bodies):
    """Send messages, end the connection before they are durable, and wait for the redelivery."""
    way_in.intake.answers.clear()
    arrivals_before, reports_before = len(way_in.intake.arrivals), len(way_in.redelivered())
    await trigger(broker, *bodies)
    await until(lambda: len(way_in.intake.arrivals) == arrivals_before + len(bodies))
    way_in.connection.abort()
    way_in.intake.answers.set()
    await until(lambda: not way_in.status().ok)
    await until(lambda: len(way_in.redelivered()) > reports_before)


async def show_increasing_packet_ids(way_in, broker):
    """Send messages until their packet ids show that the broker does not reuse low ids."""
    await trigger(broker, b"1", b"2", b"3")
    await until(lambda: len(way_in.intake.arrivals) == 3)
    way_in.connection.abort()
    await until(lambda: not way_in.status().ok)
    await until(lambda: way_in.status().ok)
    await trigger(broker, b"4")
    await until(lambda: len(way_in.intake.arrivals) == 4)


async def test_a_message_that_was_durable_before_the_connection_ended_does_not_run_again(
    mosquitto, tmp_path
):
    async with connected(mosquitto, tmp_path) as way_in:
        await show_increasing_packet_ids(way_in, mosquitto)
        way_in.intake.arrivals.clear()
        await send_and_lose_connection(way_in, mosquitto, b"same", b"same", b"other")
        assert way_in.intake.bodies() == [b"same", b"same", b"other"]
        last = way_in.redelivered()[-1]
        assert last == {"messages": 3, "recognized": 3, "may_run_twice": 0}
        way_in.connection.abort()  # the messages were acknowledged, so they are not redelivered
        await until(lambda: not way_in.status().ok)
        await trigger(mosquitto, b"after")
        await until(lambda: b"after" in way_in.intake.bodies())
        assert way_in.intake.bodies() == [b"same", b"same", b"other", b"after"]


async def test_an_equal_new_message_starts_another_run(mosquitto, tmp_path):
    async with connected(mosquitto, tmp_path) as way_in:
        await show_increasing_packet_ids(way_in, mosquitto)
        way_in.intake.arrivals.clear()
        await send_and_lose_connection(way_in, mosquitto, b"same")
        await trigger(mosquitto, b"same")
        await until(lambda: way_in.intake.bodies() == [b"same", b"same"])


async def test_a_message_that_is_not_recognized_runs_again_and_is_counted(mosquitto, tmp_path):
    async with connected(mosquitto, tmp_path) as way_in:  # the broker may use the lowest free ids
        await send_and_lose_connection(way_in, mosquitto, b"1", b"2")
        assert way_in.intake.bodies() == [b"1", b"2"] * 2
        assert way_in.redelivered() == [{"messages": 2, "recognized": 0, "may_run_twice": 2}]


async def test_a_message_that_an_earlier_process_may_have_handled_is_counted_as_may_run_twice(
    mosquitto, tmp_path
):
    first = MqttStage(tmp_path, Mqtt(topic="t/in", brokers=brokers_at(mosquitto.port)))
    first.intake.answers.clear()
    await first.start()
    await until(lambda: first.status().ok)
    await trigger(mosquitto, b"1")
    await until(lambda: first.intake.arrivals)
    first.connection.abort()
    await first.stop()
    async with connected(mosquitto, tmp_path) as way_in:
        await until(way_in.redelivered)
        assert way_in.intake.bodies() == [b"1"]
        assert way_in.redelivered()[0]["may_run_twice"] == 1
        assert way_in.telemetry.fields_of("mqtt_connected")[0]["session"] == "resumed"


async def test_a_message_redelivered_on_the_same_connection_is_the_same_message(tmp_path):
    """NATS servers redeliver a message after a time limit, even if its PUBACK is on the way."""

    def deliver(body, *, dup=True):
        broker.send(message("t/in", body, 1, dup=dup))

    def pubacks():
        return broker.received.count((PUBACK, b"\0\1"))

    broker = ScriptedBroker(lambda _: connack())
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        received, intake = way_in.intake.bodies, way_in.intake
        intake.refusal = Busy("full")
        deliver(b"1", dup=False)
        deliver(b"1")
        await until(way_in.redelivered)
        assert received() == [b"1"]
        intake.refusal = None
        intake.room.set()
        await until(lambda: pubacks() == 1)
        deliver(b"1")
        await until(lambda: pubacks() == 2)
        assert received() == [b"1", b"1"]  # the first time, the message was refused
        deliver(b"other")
        await until(lambda: pubacks() == 3)
        assert received() == [b"1", b"1", b"other"]
        await until(lambda: len(way_in.redelivered()) == 2)
        assert way_in.redelivered() == [
            {"messages": 1, "recognized": 1, "may_run_twice": 0},
            {"messages": 2, "recognized": 1, "may_run_twice": 1},
        ]
        deliver(b"other")
        await until(lambda: pubacks() == 4)
        assert received() == [b"1", b"1", b"other"]


async def test_a_message_redelivered_after_a_pause_is_recognized(tmp_path):
    broker = ScriptedBroker(lambda _: connack(session=True))
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        broker.send(message("t/in", b"1", 50) + message("t/in", b"2", 51))
        await until(lambda: way_in.intake.bodies() == [b"1", b"2"])
        way_in.connection.abort()
        await until(lambda: len(broker.connects) == 2 and way_in.status().ok)
        for reports, (packet_id, body) in enumerate([(50, b"1"), (51, b"2")], start=1):
            broker.send(message("t/in", body, packet_id, dup=True))
            await until(lambda: len(way_in.redelivered()) == reports)  # noqa: B023
        assert way_in.intake.bodies() == [b"1", b"2"]


async def test_a_message_that_a_short_connection_may_have_delivered_is_counted_as_may_run_twice(
    tmp_path,
):
    """RabbitMQ redelivers a message on the next connection with another packet id."""
    broker = ScriptedBroker(lambda _: connack(session=True))
    async with broker.listening(), connected(broker, tmp_path) as way_in:
        broker.send(message("t/in", b"1", 1))
        await until(lambda: way_in.intake.bodies() == [b"1"])
        for connects in (2, 3):
            way_in.connection.abort()
            await until(lambda: len(broker.connects) == connects and way_in.status().ok)  # noqa: B023
        broker.send(message("t/in", b"1", 2, dup=True))
        await until(way_in.redelivered)
        assert way_in.redelivered()[0]["may_run_twice"] == 1


async def test_no_message_runs_twice_if_the_broker_exceeds_receive_maximum(tmp_path):
    """MQTT 3.1.1 has no Receive Maximum, and Mosquitto exceeds it after a lost connection."""
    broker = ScriptedBroker(lambda _: connack(session=True, mqtt_5=False))
    settings = {"version": "3.1.1", "receive_maximum": 1}

    def deliver(body, packet_id, *, dup=False):
        broker.send(message("t/in", body, packet_id, mqtt_5=False, dup=dup))

    async with broker.listening(), connected(broker, tmp_path, **settings) as way_in:
        deliver(b"1", 50)
        deliver(b"2", 51)
        await until(lambda: way_in.intake.bodies() == [b"1", b"2"])
        way_in.connection.abort()
        await until(lambda: len(broker.connects) == 2 and way_in.status().ok)
        deliver(b"new", 52)
        deliver(b"1", 50, dup=True)
        await until(way_in.redelivered)
        assert way_in.redelivered()[0]["recognized"] == 1
        assert way_in.intake.bodies() == [b"1", b"2", b"new"]


async def test_a_full_node_reconnects_before_it_has_room(mosquitto, tmp_path):
    async with connected(mosquitto, tmp_path, receive_maximum=2) as way_in:
        way_in.intake.refusal = Busy("full")
        await trigger(mosquitto, b"1", b"2", b"3")
        await until(lambda: len(way_in.intake.arrivals) == 2)
        way_in.connection.abort()
        await until(lambda: len(way_in.telemetry.fields_of("mqtt_connected")) == 2)
        assert way_in.status().ok
