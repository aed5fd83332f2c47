"""An `MqttWayIn` for tests, between a real or scripted broker and a fake intake."""

from __future__ import annotations

import asyncio
import time
from contextlib import asynccontextmanager

import gmqtt
from gmqtt.mqtt.constants import MQTTv50, MQTTv311
from gmqtt.storage import PersistentStorage

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.adapters.mqtt import MqttSession, MqttWayIn
from fractal_rm.adapters.operating_system import SystemRandom
from fractal_rm.config import model
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.flow import Flow, StartSettings
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival
from fractal_rm.engine.ports import AcceptedTrigger

MAX_TRIGGER_BYTES = 256 * 1024


class FakeIntake:
    """Records triggers, and accepts them or refuses them with ``refusal``.

    Until the event ``answers`` is set, triggers wait. ``waiting`` is how many messages wait for
    the event ``room``.
    """

    def __init__(self):
        self.arrivals: list[Arrival] = []
        self.dead_letters: list[Arrival] = []
        self.codes: list[str] = []
        self.answers = asyncio.Event()
        self.answers.set()
        self.refusal = None
        self.room = asyncio.Event()
        self.waiting = 0

    async def receive_all(self, arrivals):
        self.arrivals += arrivals
        await self.answers.wait()
        if isinstance(self.refusal, RuntimeError):
            raise self.refusal
        return [self.refusal or AcceptedTrigger("run", State.ACCEPTED) for _ in arrivals]

    async def set_aside(self, arrival, refusal):
        self.dead_letters.append(arrival)
        self.codes.append(refusal.code)

    async def wait_for_room(self):
        self.waiting += 1
        try:
            await self.room.wait()
        finally:
            self.waiting -= 1
        self.room.clear()

    def bodies(self):
        return [arrival.body for arrival in self.arrivals]

    def started(self):
        """The flow that each message starts, or None on the trigger topic, and its body."""
        return [(arrival.flow_id, arrival.body) for arrival in self.arrivals]


class RecordingTelemetry(QuietTelemetry):
    """Records each event with its fields."""

    def __init__(self):
        super().__init__()
        self.recorded = []

    def event(self, name, **fields):
        super().event(name)
        self.recorded.append((name, fields))

    problem = event

    def fields_of(self, name):
        """The fields of each event of this name."""
        return [fields for each, fields in self.recorded if each == name]


class MqttStage:
    """A way in with its session.

    ``names`` resolves host names. ``session`` is the session of an earlier stage, to continue it.
    """

    def __init__(self, state, mqtt, *, flows=None, intake=None, telemetry=None, names=None,
                 clock=None, session=None):  # fmt: skip
        self.flows = {} if flows is None else flows
        self.intake = intake or FakeIntake()
        self.telemetry = telemetry or RecordingTelemetry()
        clock = clock or SystemClock()
        self.session = session or MqttSession(
            state, clock, SystemRandom(), self.telemetry, lambda: Connector(names)
        )
        self.way_in = MqttWayIn(
            self.session, mqtt, self.intake, clock, self.telemetry,
            max_trigger_bytes=lambda: MAX_TRIGGER_BYTES, flows=lambda: self.flows,
        )  # fmt: skip
        self.start, self.stop, self.status = self.way_in.start, self.way_in.stop, self.way_in.status
        self.publish = self.session.publisher.publish

    @property
    def connection(self):
        """The open connection, or None."""
        return self.session.connection

    @property
    def all_acknowledged(self):
        """Whether a connection is open, and has acknowledged all of its messages."""
        return self.connection is not None and self.connection.unacknowledged == 0

    def change_flows(self, flows):
        """Put other flows in force, as a reload does."""
        self.flows = flows
        self.way_in.reconfigured()

    def redelivered(self):
        """The reports in the log about redelivered messages."""
        return self.telemetry.fields_of("mqtt_redelivered")


@asynccontextmanager
async def connected(broker, state, flows=None, *, clock=None, **settings):
    """A way in that is connected to the broker. It is stopped twice, which must be allowed."""
    mqtt = Mqtt(**{"topic": "t/in", "brokers": brokers_at(broker.port), **settings})
    stage = MqttStage(state, mqtt, flows=flows, clock=clock)
    await stage.start()
    await until(lambda: stage.status().ok)
    try:
        yield stage
    finally:
        await stage.stop()
        await stage.stop()


def brokers_at(*ports):
    """Brokers on this machine."""
    return tuple(model.Broker("127.0.0.1", port) for port in ports)


def flows_on(**filters):
    """Flows by their ids, with the topic filters that start them."""
    return {f: Flow(f, starts=StartSettings(topics=topics)) for f, topics in filters.items()}


async def until(condition, within_s=30.0):
    async def wait():
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), within_s)


# --- another client of the broker ----------------------------------------------------------------


@asynccontextmanager
async def other_client(broker, **options):
    """A connected gmqtt client. Its ``storage`` contains its unacknowledged messages."""
    storage = PersistentStorage()
    client_id = f"publisher-{time.monotonic_ns()}"
    client = gmqtt.Client(client_id, persistent_storage=storage, **options)
    client.storage = storage
    version = MQTTv50 if broker.protocol == "5" else MQTTv311
    await client.connect("127.0.0.1", broker.port, version=version)
    yield client
    await client.disconnect()


async def send(broker, topic, *bodies, **options):
    """Publish messages at QoS 1; returns when the broker has acknowledged them."""
    async with other_client(broker) as client:
        for body in bodies:
            client.publish(topic, body, qos=1, **options)
        await client.storage.wait_empty()


async def trigger(broker, *bodies, **options):
    """Publish messages on the trigger topic."""
    await send(broker, "t/in", *bodies, **options)


@asynccontextmanager
async def listener(broker, topic):
    """Collects the body and the correlation data of each message published on a topic."""
    received = []

    def on_message(_client, _topic, body, _qos, properties):
        received.append((body, properties.get("correlation_data", [None])[0]))

    async with other_client(broker) as client:
        subscribed = asyncio.Event()
        client.on_message = on_message
        client.on_subscribe = lambda *_: subscribed.set()
        client.subscribe(topic, qos=1)
        await asyncio.wait_for(subscribed.wait(), 20)
        yield received
