"""An `MqttWayIn` for tests: it gets messages from a broker, and passes triggers to a fake intake.

The broker is a real one or a `ScriptedBroker`.
"""

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
    """Records triggers. It accepts all triggers, or refuses all with ``refusal`` if that is set.

    A trigger is answered only when the event ``answers`` is set. ``waiting`` is the number of
    callers of `wait_for_room`, which returns when the event ``room`` is set.
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
        """The flow id and the body of each trigger; on the trigger topic, the flow id is None."""
        return [(arrival.flow_id, arrival.body) for arrival in self.arrivals]


class RecordingTelemetry(QuietTelemetry):
    """Records each event and problem with its fields."""

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
        """Whether a connection is open on which every message was acknowledged."""
        return self.connection is not None and self.connection.unacknowledged == 0

    def change_flows(self, flows):
        """Replace the flows, as a reload of the configuration does."""
        self.flows = flows
        self.way_in.reconfigured()

    def redelivered(self):
        """The fields of each log event about redelivered messages."""
        return self.telemetry.fields_of("mqtt_redelivered")


@asynccontextmanager
async def connected(broker, state, flows=None, *, clock=None, **settings):
    """Yield a stage that is connected to the broker. Then stop it twice: this must be allowed.

    ``settings`` replaces fields of `Mqtt`.
    """
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
    """The settings of brokers on 127.0.0.1 with these ports."""
    return tuple(model.Broker("127.0.0.1", port) for port in ports)


def flows_on(**filters):
    """Flows by id. Each keyword is a flow id, and its value has the topic filters of this flow."""
    return {
        flow_id: Flow(flow_id, starts=StartSettings(topics=topics))
        for flow_id, topics in filters.items()
    }


async def until(condition, within_s=30.0):
    async def wait():
        while not condition():
            await asyncio.sleep(0.005)

    await asyncio.wait_for(wait(), within_s)


# --- another client of the broker ----------------------------------------------------------------


@asynccontextmanager
async def other_client(broker, **options):
    """Yield a connected gmqtt client. The client's ``storage`` has its unacknowledged messages."""
    storage = PersistentStorage()
    client_id = f"publisher-{time.monotonic_ns()}"
    client = gmqtt.Client(client_id, persistent_storage=storage, **options)
    client.storage = storage
    version = MQTTv50 if broker.protocol == "5" else MQTTv311
    await client.connect("127.0.0.1", broker.port, version=version)
    yield client
    await client.disconnect()


async def send(broker, topic, *bodies, **options):
    """Publish messages at QoS 1, and wait until the broker has acknowledged them."""
    async with other_client(broker) as client:
        for body in bodies:
            client.publish(topic, body, qos=1, **options)
        await client.storage.wait_empty()


async def trigger(broker, *bodies, **options):
    """Publish messages on the trigger topic."""
    await send(broker, "t/in", *bodies, **options)


@asynccontextmanager
async def listener(broker, topic):
    """Subscribe to a topic. Yields a list that gets (body, correlation data) of each message."""
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
