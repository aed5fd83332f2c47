"""The way in by MQTT: connected again and again, subscribed to what flows begin at."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path

from fractal_rm.adapters.connect import Connector, Names
from fractal_rm.adapters.mqtt.client import LinkFailed
from fractal_rm.adapters.mqtt.client_id import ClientId
from fractal_rm.adapters.mqtt.link import Link
from fractal_rm.adapters.mqtt.publisher import MqttPublisher
from fractal_rm.adapters.mqtt.taking import Taking
from fractal_rm.adapters.mqtt.topics import KeptTopics, Topics
from fractal_rm.config.model import Mqtt
from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import Check, Clock, Intake, Random, Telemetry

AGAIN_FIRST_S = 0.2
AGAIN_AT_MOST_S = 10.0
STEADY_AFTER_S = 5.0  # a link that held this long was a good one


class MqttIntake:
    """Port `WayIn`. A broker that is down, at the start or later, is waited for.

    ``flows`` are those in force: they say at which topics they begin. ``publisher`` is told which
    link is open.
    """

    def __init__(
        self,
        mqtt: Mqtt,
        intake: Intake,
        state_path: Path,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        *,
        max_trigger_bytes: Callable[[], int],
        flows: Callable[[], Mapping[str, Flow]],
        publisher: MqttPublisher,
        names: Names | None = None,
    ) -> None:
        self._mqtt = mqtt
        self._intake = intake
        self._state_path = state_path
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._max_trigger_bytes = max_trigger_bytes
        self._flows = flows
        self._publisher = publisher
        self._taking = Taking(mqtt, intake, telemetry, Topics(mqtt.topic, {}))
        self._kept: KeptTopics | None = None
        self._refused: list[str] = []  # filters that the broker does not let us have
        self._subscribing = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._connector = Connector(names)  # its own: it waits behind no component's name
        self._address = f"{mqtt.host}:{mqtt.port}"
        self._client_id: ClientId | None = None
        self._link: Link | None = None
        self._running: asyncio.Task[None] | None = None
        self._why_not = "not connected yet"
        self._stopping = False

    async def start(self) -> None:
        """Begin to connect; returns at once.

        Raises ClientIdInUse, and OSError where no client id can be kept.
        """
        self._client_id = ClientId(self._mqtt.client_id, self._state_path, self._random)
        self._kept = KeptTopics(self._state_path, self._client_id.text)
        self._taking.topics = Topics(self._mqtt.topic, self._flows())
        self._running = asyncio.create_task(self._stay_connected(self._client_id.text))

    async def stop(self) -> None:
        """Disconnect in order: what is being journalled is acknowledged, what waits comes again."""
        running, self._running = self._running, None
        if running is None:
            return
        self._stopping = True
        for task in (running, *self._changes):
            task.cancel()
        await asyncio.gather(running, *self._changes, return_exceptions=True)
        if self._link is not None:
            await self._link.close()
            self._set_link(None)
        self._connector.close()
        if self._client_id is not None:
            self._client_id.release()  # only now: its next user would throw this link out
            self._client_id = None

    def status(self) -> Check:
        """Whether messages can come in now."""
        if self._link is None:
            return Check("mqtt", ok=False, text=f"{self._address}: {self._why_not}")
        text = f"{self._address}, MQTT {self._link.protocol}"
        if self._refused:
            text += f"; the broker refuses subscriptions to {', '.join(self._refused)}"
        return Check("mqtt", ok=not self._refused, text=text)

    def reconfigured(self) -> None:
        """Subscribe to what flows begin at now; the session and its messages stay."""
        self._taking.topics = Topics(self._mqtt.topic, self._flows())
        if self._link is not None:
            change = asyncio.create_task(self._change(self._link))
            self._changes.add(change)
            change.add_done_callback(self._changes.discard)

    async def _change(self, link: Link) -> None:
        try:
            await self._subscribe(link)
        except LinkFailed as error:
            self._telemetry.problem("resubscribe_failed", reason=str(error))
            link.abort()  # the next connection subscribes to everything anew
        except Exception as error:  # noqa: BLE001 - the top of the task
            self._telemetry.problem("resubscribe_failed", reason=repr(error), exc_info=error)
            link.abort()

    async def _subscribe(self, link: Link) -> None:
        """Subscribe to what is wanted, then take back what is not. Raises LinkFailed."""
        async with self._subscribing:
            topics = None
            while topics is not self._taking.topics:  # it may change meanwhile
                topics = self._taking.topics
                await self._subscribed(link, topics)

    async def _subscribed(self, link: Link, topics: Topics) -> None:
        kept = self._kept
        if kept is None:  # not started
            return
        wanted = topics.filters | {topics.own}
        before = await asyncio.to_thread(kept.read)
        await asyncio.to_thread(kept.write, before | wanted)  # first: an end may come between
        self._refused = await link.subscriptions.follow(topics.filters)
        for topic_filter in self._refused:
            self._telemetry.problem("topic_refused", topic=topic_filter, broker=self._address)
        for topic_filter in sorted(before - wanted):
            await link.subscriptions.drop(topic_filter)
        await asyncio.to_thread(kept.write, wanted)

    def _set_link(self, link: Link | None) -> None:
        self._link = self._publisher.link = link

    async def _stay_connected(self, client_id: str) -> None:
        """First connect and reconnect are one path."""
        tries, older = 0, False
        while not self._stopping:  # wait_for may swallow a cancellation (Python before 3.12)
            began_s = self._clock.monotonic_s()
            fault: Exception | None = None
            try:
                link = await self._open(client_id, older=older)
            except LinkFailed as error:
                self._why_not, changes = str(error), error.older != older
                older = error.older
                if older and changes:
                    continue  # the broker said which protocol it speaks: at once
            except Exception as error:  # noqa: BLE001 - the top of the task
                # Nobody foresaw it, and it may pass: without this task there is no MQTT any more.
                self._why_not, fault = f"{type(error).__name__}: {error}", error
            else:
                self._set_link(link)
                if self._stopping:
                    return
                self._telemetry.event(
                    "mqtt_connected", broker=self._address, protocol=link.protocol
                )
                self._why_not = await asyncio.shield(link.closed)
                self._set_link(None)
            if self._clock.monotonic_s() - began_s > STEADY_AFTER_S:
                tries = 0
            tries += 1
            again_s = self._again_s(tries)
            self._telemetry.problem(
                "mqtt_down",
                broker=self._address,
                reason=self._why_not,
                again_s=round(again_s, 1),
                exc_info=fault,
            )
            await asyncio.sleep(again_s)

    async def _open(self, client_id: str, *, older: bool) -> Link:
        link = self._new_link(client_id, older=older)
        try:
            await link.open(numbered=bool(self._taking.topics.filters))
            await self._subscribe(link)
        except asyncio.CancelledError:
            await link.close()  # the session may have sent messages already: they are answered
            raise
        except BaseException:
            link.abort()  # nothing may come in by it any more
            raise
        return link

    def _again_s(self, tries: int) -> float:
        """Doubling to a bound, half of it chance: a fleet must not come back as one."""
        full = min(AGAIN_AT_MOST_S, AGAIN_FIRST_S * 2 ** min(tries - 1, 10))
        return full * (0.5 + self._random.fraction() / 2)

    def _new_link(self, client_id: str, *, older: bool) -> Link:
        wait_for_room = self._wait_for_room
        return Link(
            self._mqtt,
            client_id,
            self._taking.take,
            wait_for_room,
            self._max_trigger_bytes,
            self._connector,
            older=older,
        )

    async def _wait_for_room(self) -> int:
        """Comes to how many milliseconds it took, suspended ones too."""
        since_ms = self._clock.steady_ms()
        await self._intake.wait_for_room()
        return self._clock.steady_ms() - since_ms
