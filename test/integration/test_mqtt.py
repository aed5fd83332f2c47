"""MQTT with real brokers: nothing is acknowledged before it is durable, nothing is lost."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import asynccontextmanager
from pathlib import Path

import gmqtt
import pytest
from gmqtt.mqtt.constants import MQTTv50, MQTTv311

from brokers import Broker, need
from components import Components
from dns import SERVER_FAILURE, resolving
from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.adapters.mqtt import MqttIntake, unanswered
from fractal_rm.adapters.mqtt import link as link_module
from fractal_rm.adapters.mqtt.client_id import ClientId, ClientIdInUse, kept_client_id
from fractal_rm.adapters.mqtt.packets import BEGINNING_BYTES
from fractal_rm.adapters.mqtt.publisher import MqttPublisher
from fractal_rm.adapters.operating_system import SystemRandom
from fractal_rm.config import model
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.errors import Busy, Malformed
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival
from fractal_rm.engine.ports import Taken
from nodes import NodeProcess, wait_until
from ports import free_port


class Intake:
    """Takes triggers as it is told: at once, when let go, or not."""

    def __init__(self):
        self.arrivals: list[Arrival] = []
        self.set_aside_: list[Arrival] = []
        self.codes: list[str] = []
        self.go = asyncio.Event()
        self.go.set()
        self.refusal = None
        self.room = asyncio.Event()

    async def receive_all(self, arrivals):
        self.arrivals += arrivals
        await self.go.wait()
        if isinstance(self.refusal, RuntimeError):
            raise self.refusal
        return [self.refusal or Taken("run", State.ACCEPTED) for _ in arrivals]

    async def set_aside(self, arrival, refusal):
        self.set_aside_.append(arrival)
        self.codes.append(refusal.code)

    async def wait_for_room(self):
        await self.room.wait()
        self.room.clear()

    def bodies(self):
        return [arrival.body for arrival in self.arrivals]


LONGEST = 256 * 1024


def at(*ports):
    """Brokers on this machine."""
    return tuple(model.Broker("127.0.0.1", port) for port in ports)


class Heard(QuietTelemetry):
    """Keeps what was said of each event, too."""

    def __init__(self):
        super().__init__()
        self.said = []

    def event(self, name, **fields):
        super().event(name)
        self.said.append((name, fields))

    problem = event

    def of(self, name):
        """What was said of the events of a name."""
        return [fields for each, fields in self.said if each == name]


def made(mqtt, intake, state, telemetry, flows=None, publisher=None, names=None, known=None):
    """An MQTT way in."""
    return MqttIntake(
        mqtt, intake, state, SystemClock(), SystemRandom(), telemetry,
        max_trigger_bytes=lambda: LONGEST, flows=lambda: flows or {},
        publisher=publisher or MqttPublisher(), connector=Connector(names),
        known=known,
    )  # fmt: skip


@asynccontextmanager
async def intake_at(broker, tmp_path, flows=None, publisher=None, **changes):
    """An MQTT way in, connected."""
    intake = Intake()
    mqtt = Mqtt(**{"topic": "t/in", "brokers": at(broker.port), **changes})
    telemetry = Heard()
    way_in = made(mqtt, intake, tmp_path, telemetry, flows, publisher)
    way_in.intake, way_in.telemetry = intake, telemetry
    await way_in.start()
    await until(lambda: way_in.status().ok)
    try:
        yield way_in
    finally:
        await way_in.stop()
        await way_in.stop()


async def until(condition, within_s=30.0):
    async def wait():
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), within_s)


@asynccontextmanager
async def publisher(broker, **connect):
    client = gmqtt.Client(f"publisher-{time.monotonic_ns()}", **connect)
    version = MQTTv50 if broker.protocol == "5" else MQTTv311
    await client.connect("127.0.0.1", broker.port, version=version)
    yield client
    await client.disconnect()


async def publish(broker, *bodies, **properties):
    async with publisher(broker) as client:
        for body in bodies:
            client.publish("t/in", body, qos=1, **properties)
        await client._persistent_storage.wait_empty()


async def test_the_newest_protocol_that_the_broker_speaks_is_used(broker, tmp_path):
    async with intake_at(broker, tmp_path) as way_in:
        assert way_in.status().text.endswith(f"MQTT {broker.protocol}")
        await publish(broker, b"1", b"2")
        await until(lambda: way_in.intake.bodies() == [b"1", b"2"])


async def test_what_is_not_durable_is_not_acknowledged_and_comes_again(broker, tmp_path):
    async with intake_at(broker, tmp_path) as way_in:
        way_in.intake.go.clear()
        await publish(broker, b"precious")
        await until(lambda: way_in.intake.bodies() == [b"precious"])
        way_in._link.abort()
        await until(lambda: len(way_in.intake.arrivals) >= 2)
        way_in.intake.go.set()
        await asyncio.sleep(0.1)
        way_in.intake.arrivals.clear()
        way_in._link.abort()
        await until(lambda: way_in.status().ok)
        await publish(broker, b"after")
        await until(lambda: b"after" in way_in.intake.bodies())
        assert b"precious" not in way_in.intake.bodies()


async def test_a_late_answer_never_reaches_another_connection(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path) as way_in:
        way_in.intake.go.clear()
        await publish(mosquitto, b"first")
        await until(lambda: len(way_in.intake.arrivals) == 1)
        old = way_in._link
        old.abort()
        await until(lambda: way_in.status().ok and way_in._link is not old)
        await until(lambda: len(way_in.intake.arrivals) == 2)
        way_in.intake.go.set()
        await asyncio.sleep(0.1)
        # Packet ids begin again on each connection: an answer that strayed would acknowledge
        # this message before it is durable.
        way_in.intake.go.clear()
        await publish(mosquitto, b"second")
        await until(lambda: b"second" in way_in.intake.bodies())
        way_in._link.abort()
        await until(lambda: way_in.intake.bodies().count(b"second") == 2)
        way_in.intake.go.set()


async def test_what_is_refused_for_now_waits_at_the_broker(broker, tmp_path):
    async with intake_at(broker, tmp_path) as way_in:
        way_in.intake.refusal = Busy("full")
        await publish(broker, b"x")
        await until(lambda: len(way_in.intake.arrivals) == 1)
        way_in.intake.refusal = None
        way_in.intake.room.set()
        await until(lambda: len(way_in.intake.arrivals) == 2)
        assert way_in.intake.set_aside_ == []


async def test_what_is_refused_for_good_is_set_aside_and_acknowledged(broker, tmp_path):
    async with intake_at(broker, tmp_path) as way_in:
        way_in.intake.refusal = Malformed("no")
        await publish(broker, b"\xff\xfe", b"", b"plain text")
        await until(lambda: len(way_in.intake.set_aside_) == 3)
        way_in.intake.refusal = None
        way_in._link.abort()
        await publish(broker, b"next")
        await until(lambda: b"next" in way_in.intake.bodies())
        assert len(way_in.intake.arrivals) == 4


async def test_receive_maximum_bounds_what_is_unanswered(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path, receive_maximum=3) as way_in:
        way_in.intake.go.clear()
        await publish(mosquitto, *[b"%d" % n for n in range(10)])
        await asyncio.sleep(0.3)
        assert len(way_in.intake.arrivals) == 3
        way_in.intake.go.set()
        await until(lambda: len(way_in.intake.arrivals) == 10)


async def test_reading_stops_where_the_protocol_has_no_receive_maximum(tmp_path):
    broker = Broker("nats", tmp_path).start()
    async with intake_at(broker, tmp_path, receive_maximum=3) as way_in:
        way_in.intake.go.clear()
        await publish(broker, *[b"%d" % n for n in range(10)])
        await until(lambda: way_in._link._wire.held)
        await until(lambda: len(way_in.intake.arrivals) == 3)
        way_in.intake.go.set()
        await until(lambda: len(set(way_in.intake.bodies())) == 10)
    broker.stop()


async def test_reading_stops_while_too_many_bytes_are_unanswered(mosquitto, tmp_path, monkeypatch):
    monkeypatch.setattr(unanswered, "MOST_BYTES", 1_000_000)
    async with intake_at(mosquitto, tmp_path) as way_in:
        way_in.intake.go.clear()
        await publish(mosquitto, *[b"%d" % n * 200_000 for n in range(10)])
        await until(lambda: way_in._link._wire.held)
        await until(lambda: len(way_in.intake.arrivals) == 5)
        way_in.intake.go.set()
        await until(lambda: len(way_in.intake.arrivals) == 10)


async def test_of_a_giant_only_the_beginning_is_kept_for_its_dead_letter(broker, tmp_path):
    async with intake_at(broker, tmp_path) as way_in:
        await publish(broker, b"begin" + b"x" * 900_000, b"small")
        await until(lambda: way_in.intake.bodies() == [b"small"])
        await until(lambda: way_in.intake.codes == ["too-large"])
        kept = way_in.intake.set_aside_[0].body
        assert kept.startswith(b"begin")
        assert 64 * 1024 <= len(kept) <= BEGINNING_BYTES


async def test_a_fault_of_ours_sets_the_message_aside_and_frees_its_place(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path, receive_maximum=1) as way_in:
        way_in.intake.refusal = RuntimeError("nobody foresaw this")
        await publish(mosquitto, b"unlucky")
        await until(lambda: way_in.intake.codes == ["internal"])
        assert "message_broke" in way_in.telemetry.events
        way_in.intake.refusal = None
        await publish(mosquitto, b"next")
        await until(lambda: way_in.intake.bodies() == [b"unlucky", b"next"])


async def test_what_is_being_journalled_at_a_stop_is_answered_and_does_not_come_again(
    broker, tmp_path
):
    async with intake_at(broker, tmp_path) as way_in:
        way_in.intake.go.clear()
        await publish(broker, b"1", b"2", b"3")
        await until(lambda: len(way_in.intake.arrivals) == 3)
        link = way_in._link
        stopping = asyncio.create_task(way_in.stop())
        await until(lambda: link._unanswered._ending)
        way_in.intake.go.set()
        await stopping
    async with intake_at(broker, tmp_path) as way_in:
        await publish(broker, b"after")
        await until(lambda: b"after" in way_in.intake.bodies())
        assert way_in.intake.bodies() == [b"after"]


async def test_what_waits_for_room_does_not_delay_a_stop_and_comes_again(
    broker, tmp_path, monkeypatch
):
    monkeypatch.setattr(link_module, "ANSWER_LIMIT_S", 3600)  # waiting for it would not end
    async with intake_at(broker, tmp_path) as way_in:
        way_in.intake.refusal = Busy("full")
        await publish(broker, b"patient")
        await until(lambda: len(way_in._link._unanswered._waiting) == 1)
        await way_in.stop()
    async with intake_at(broker, tmp_path) as way_in:
        await until(lambda: way_in.intake.bodies() == [b"patient"])


async def test_a_broker_that_does_not_speak_mqtt_is_left_with_a_reason(tmp_path):
    async def babble(reader, writer):
        await reader.read(1)
        writer.write(b"\x20\xff\xff\xff\xff\x01")
        await writer.drain()
        await reader.read()
        writer.close()

    async with await asyncio.start_server(babble, "127.0.0.1", free_port()) as server:
        mqtt = Mqtt(brokers=at(server.sockets[0].getsockname()[1]))
        telemetry = QuietTelemetry()
        way_in = made(mqtt, Intake(), tmp_path, telemetry)
        await way_in.start()
        await until(lambda: "mqtt_down" in telemetry.events)
        assert "does not speak MQTT" in way_in.status().text
        await way_in.stop()


async def test_whatever_keeps_mqtt_from_connecting_is_said_and_tried_again(mosquitto, tmp_path):
    mqtt = Mqtt(topic="t/in", brokers=at(mosquitto.port), username="u", password="p" * 70_000)
    telemetry = Heard()
    way_in = made(mqtt, Intake(), tmp_path, telemetry)
    await way_in.start()  # no packet can hold that, which the configuration would have said
    await until(lambda: telemetry.events.count("mqtt_down") > 1)
    assert telemetry.of("mqtt_down")[0]["exc_info"] is not None
    assert "error: " in way_in.status().text
    await way_in.stop()


async def test_a_broker_whose_name_does_not_resolve_is_left_with_a_reason(tmp_path):
    mqtt = Mqtt(brokers=(model.Broker("broker.plant"),))
    telemetry = QuietTelemetry()
    async with resolving(tmp_path, {"broker.plant": SERVER_FAILURE}) as (_, names):
        way_in = made(mqtt, Intake(), tmp_path, telemetry, names=names)
        await way_in.start()
        await until(lambda: "mqtt_down" in telemetry.events)
        assert "the name broker.plant did not resolve" in way_in.status().text
        await way_in.stop()


async def test_a_broker_is_found_by_its_name(mosquitto, tmp_path):
    mqtt = Mqtt(brokers=(model.Broker("broker.plant", mosquitto.port),))
    answers = {"broker.plant": ["127.0.0.9", "127.0.0.1"]}
    async with resolving(tmp_path, answers) as (_, names):
        way_in = made(mqtt, Intake(), tmp_path, QuietTelemetry(), names=names)
        await way_in.start()
        await until(lambda: way_in.status().ok)
        await way_in.stop()


async def test_an_mqtt_5_user_property_is_the_trigger_id(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path) as way_in:
        await publish(mosquitto, b"1", user_property=("Idempotency-Key", "k"))
        await publish(mosquitto, b"2", user_property=("id", "j"))
        await publish(mosquitto, b"3", user_property=("other", "x"))
        await until(lambda: len(way_in.intake.arrivals) == 3)
        assert [arrival.key for arrival in way_in.intake.arrivals] == ["k", "j", None]


async def test_a_publisher_that_wants_no_promise_is_heard(broker, tmp_path):
    async with intake_at(broker, tmp_path) as way_in, publisher(broker) as client:
        client.publish("t/in", b"at QoS 0", qos=0)
        await until(lambda: way_in.intake.bodies() == [b"at QoS 0"])


@pytest.mark.parametrize("wanted", [False, True])
async def test_retained_messages_are_taken_only_where_that_is_asked_for(broker, tmp_path, wanted):
    async with publisher(broker) as client:
        client.publish("t/in", b"old", qos=1, retain=True)
        await client._persistent_storage.wait_empty()
    async with intake_at(broker, tmp_path, retained=wanted) as way_in:
        await publish(broker, b"new")
        await until(lambda: b"new" in way_in.intake.bodies())
        assert (b"old" in way_in.intake.bodies()) is wanted


async def test_messages_sent_meanwhile_come_when_the_node_is_back(broker, tmp_path):
    async with intake_at(broker, tmp_path):
        pass
    await publish(broker, b"meanwhile")
    async with intake_at(broker, tmp_path) as way_in:
        await until(lambda: way_in.intake.bodies() == [b"meanwhile"])


async def test_a_broker_that_is_down_is_waited_for_and_one_that_returns_is_found(tmp_path):
    broker = Broker("mosquitto", tmp_path)
    intake, telemetry = Intake(), QuietTelemetry()
    mqtt = Mqtt(topic="t/in", brokers=at(broker.port))
    way_in = made(mqtt, intake, tmp_path, telemetry)
    await way_in.start()
    await until(lambda: "mqtt_down" in telemetry.events)
    assert "refused" in way_in.status().text or "Connect call failed" in way_in.status().text
    broker.start()
    await until(lambda: way_in.status().ok)
    for n in range(3):
        broker.stop(signal.SIGKILL)
        await until(lambda: not way_in.status().ok)
        broker.start()
        await until(lambda: way_in.status().ok)
        await publish(broker, b"%d" % n)
        await until(lambda n=n: b"%d" % n in intake.bodies())
    await way_in.stop()
    broker.stop()


@pytest.mark.slow
async def test_a_dead_link_is_noticed_within_one_and_a_half_keepalives(mosquitto, tmp_path):
    async with intake_at(mosquitto, tmp_path, keepalive=2) as way_in:
        mosquitto.send_signal(signal.SIGSTOP)
        try:
            await until(lambda: not way_in.status().ok, within_s=5)
            assert "silent" in way_in._why_not
        finally:
            mosquitto.send_signal(signal.SIGCONT)
        await until(lambda: way_in.status().ok)


async def test_whoever_watches_sees_the_node_s_status(broker, tmp_path):
    seen = []
    async with publisher(broker) as watcher:
        watcher.on_message = lambda _c, topic, body, _q, _p: seen.append((topic, json.loads(body)))
        watcher.subscribe("fractal-rm/+/status", qos=1)
        async with intake_at(broker, tmp_path, client_id="node-a") as way_in:
            topic = "fractal-rm/node-a/status"
            await until(lambda: seen[-1:] == [(topic, {"state": "online"})])
            way_in._link._client._connection._transport.abort()
            await until(lambda: (topic, {"state": "lost"}) in seen)
            await until(lambda: seen[-1:] == [(topic, {"state": "online"})])
        await until(lambda: seen[-1:] == [(topic, {"state": "stopped"})])


async def test_a_broker_that_wants_a_password_gets_it(tmp_path):
    from brokers import need

    need("mosquitto_passwd")
    subprocess.run(
        ["mosquitto_passwd", "-b", "-c", str(tmp_path / "passwd"), "node", "secret"], check=True
    )
    broker = Broker("mosquitto", tmp_path)
    text = broker._config.read_text().replace("allow_anonymous true", "allow_anonymous false")
    broker._config.write_text(text + f"password_file {tmp_path}/passwd\n")
    broker.start()
    async with intake_at(broker, tmp_path, username="node", password="secret"):
        pass
    intake, telemetry = Intake(), QuietTelemetry()
    mqtt = Mqtt(brokers=at(broker.port), username="node", password="wrong")
    way_in = made(mqtt, intake, tmp_path, telemetry)
    await way_in.start()
    await until(lambda: "mqtt_down" in telemetry.events)
    assert "not authorized" in way_in._why_not
    await way_in.stop()
    broker.stop()


def test_the_client_id_is_kept_and_is_no_bare_node_id(tmp_path):
    first = kept_client_id(tmp_path, SystemRandom())
    assert first == kept_client_id(tmp_path, SystemRandom())
    assert first.startswith("fractal-rm-")


@pytest.mark.parametrize("configured", [None, "node-a", "a/b", "x" * 1_000])
def test_a_client_id_is_used_by_one_process_at_a_time(tmp_path, configured):
    first = ClientId(configured, tmp_path, SystemRandom())
    with pytest.raises(ClientIdInUse, match=f"in use by process {os.getpid()}; stop that one"):
        ClientId(configured, tmp_path, SystemRandom())
    ClientId("its own", tmp_path, SystemRandom()).release()
    first.release()
    again = ClientId(configured, tmp_path, SystemRandom())
    assert again.text == first.text
    again.release()


async def test_a_state_folder_that_was_moved_away_is_not_made_again(mosquitto, tmp_path):
    folder, moved = tmp_path / "state", tmp_path / "moved"
    folder.mkdir()
    async with intake_at(mosquitto, folder) as way_in:
        folder.rename(moved)
        way_in._link.abort()
        await until(lambda: str(folder) in way_in.status().text)
        with pytest.raises(FileNotFoundError):
            ClientId(None, folder, SystemRandom())
        assert all(said["exc_info"] is None for said in way_in.telemetry.of("mqtt_down"))
        moved.rename(folder)
        await until(lambda: way_in.status().ok)


# --- a whole node ------------------------------------------------------------------------------


async def test_a_puback_comes_after_the_sync(mosquitto, tmp_path, components):
    need("strace")
    trace = tmp_path / "trace"
    node = NodeProcess(tmp_path / "n", components=components.port, broker=mosquitto.port)
    node.before = ["strace", "-D", "-f", "-o", str(trace), "-xx", "-s", "999", "-e",
                   "trace=recvfrom,read,write,sendto,fdatasync"]  # fmt: skip
    node.start().wait_connected()
    async with publisher(mosquitto) as client:
        client.publish(node.topic, json.dumps({"id_flow": "2", "payload": "sync me"}), qos=1)
        wait_until(lambda: len(node.runs(State.SUCCEEDED)) == 1)
    assert node.stop() == 0
    ended = f"{trace.read_text().split()[0]} +++ exited"
    calls = wait_until(lambda: lines_with(trace, ended))
    came = first(calls, "".join(f"\\x{byte:02x}" for byte in b"sync me"))
    synced = first(calls[came:], "fdatasync", "= 0")
    puback = first(calls[came:], ', "\\x40\\x')
    assert 0 < synced < puback


def lines_with(trace: Path, ended: str) -> list[str] | None:
    """A whole trace, when its first process has ended."""
    lines = [" ".join(line.split()) for line in trace.read_text().splitlines()]
    return lines if any(line.startswith(ended) for line in lines) else None


def first(calls: list[str], *words: str) -> int:
    """The first call that says all of these."""
    return next(at for at, call in enumerate(calls) if all(word in call for word in words))


def test_a_second_launcher_does_not_throw_the_first_one_out(mosquitto, tmp_path, components):
    node = NodeProcess(tmp_path / "n", components=components.port, broker=mosquitto.port).start()
    node.wait_connected()
    launcher = [sys.executable, "-m", "fractal_rm.cli.main", "mqtt", "--config", node.config]
    second = subprocess.run(launcher, capture_output=True, text=True, timeout=30)
    assert second.returncode == 4
    assert f"is in use by process {node.process.pid}; stop that one first" in second.stderr
    assert "Traceback" not in second.stderr
    assert node.check("mqtt")
    assert node.stop() == 0
    assert node.log.count("mqtt_connected") == 1


@pytest.fixture(scope="module")
def node_and_broker(tmp_path_factory):
    """One node for all bad messages: it must outlive each."""
    folder = tmp_path_factory.mktemp("bad")
    broker = Broker("mosquitto", folder).start()
    components = Components()
    node = NodeProcess(folder / "n", components=components.port, broker=broker.port).start()
    yield node.wait_connected(), broker
    assert node.stop() == 0
    assert "Traceback" not in node.log
    broker.stop()
    components.end()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff\xfe\xfd",
        b"plain text",
        b"\x00\x01\x02" * 1000,
        b"[" * 100_000,
        b"x" * 10_000_000,
        b'{"id_flow": "1"}',
        b'{"payload": 1}',
        b'{"id_flow": {}, "payload": 1}',
        b'{"id_flow": "1", "payload": NaN}',
        b'{"id_flow": "1", "id_flow": "2", "payload": 1}',
        b'{"id_flow": "99", "payload": 1}',
    ],
    ids=["empty", "broken UTF-8", "text", "binary", "deep", "10 MB", "no payload", "no flow",
         "mistyped", "NaN", "twice", "unknown"],
)  # fmt: skip
async def test_what_cannot_become_a_run_is_a_dead_letter(node_and_broker, body):
    node, broker = node_and_broker
    before = len(node.runs(State.DEAD))
    async with publisher(broker) as client:
        client.publish(node.topic, body, qos=1)
        await client._persistent_storage.wait_empty()
        wait_until(lambda: len(node.runs(State.DEAD)) == before + 1)
        newest = node.runs(State.DEAD)[0]
        assert newest.reason
        assert newest.source == "mqtt"
        client.publish(node.topic, b'{"id_flow": "2", "payload": 1}', qos=1)
        await client._persistent_storage.wait_empty()
    wait_until(lambda: node.runs()[0].state is State.SUCCEEDED)
