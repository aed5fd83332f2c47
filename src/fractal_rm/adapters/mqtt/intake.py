"""The way in by MQTT: connected again and again, subscribed to what flows begin at."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.mqtt.brokers import Brokers
from fractal_rm.adapters.mqtt.client import LinkFailed, To
from fractal_rm.adapters.mqtt.client_id import ClientId
from fractal_rm.adapters.mqtt.connect_options import Answer
from fractal_rm.adapters.mqtt.known_brokers import KnownBrokers
from fractal_rm.adapters.mqtt.link import Link
from fractal_rm.adapters.mqtt.publisher import MqttPublisher
from fractal_rm.adapters.mqtt.taking import Taking
from fractal_rm.adapters.mqtt.topics import KeptTopics, Topics
from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.named import named
from fractal_rm.engine.ports import Check, Clock, Intake, Random, Telemetry, WayIn

AGAIN_FIRST_S = 0.2
AGAIN_AT_MOST_S = 10.0
STEADY_AFTER_S = 5.0  # a link that held this long was a good one
GIVEN_UP_AT = 2  # times that a broker ended the connection at one filter, or at the status


class MqttIntake:
    """Port `WayIn`. A broker that is down, at the start or later, is waited for.

    ``flows`` are those in force: they say at which topics they begin. ``publisher`` is told which
    link is open. It and ``known`` outlive this way in.
    """

    takes_over = False

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
        connector: Connector | None = None,
        known: KnownBrokers | None = None,
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
        self._refused: dict[str, str] = {}  # filters that the broker does not let us have, and why
        self._cut_at: Counter[str] = Counter()  # how often it cut us off at a filter
        self._cut_by_status: Counter[Broker] = Counter()  # and at the node's status
        self._subscribing = asyncio.Lock()
        self._changes: set[asyncio.Task[None]] = set()
        self._connector = connector or Connector()
        self._known = known or KnownBrokers()
        self._brokers = Brokers(mqtt, self._known)
        self._client_id: ClientId | None = None
        self._link: Link | None = None  # that is open
        self._newest: Link | None = None
        self._running: asyncio.Task[None] | None = None
        self._why_not = "not connected yet"
        self._stopping = False

    async def start(self, before: WayIn | None = None) -> None:  # noqa: ARG002 - it is stopped
        """Begin to connect; returns at once.

        Raises ClientIdInUse, ClientIdUnreadable, and OSError where no client id can be kept.
        """
        try:
            self._client_id = ClientId(self._mqtt.client_id, self._state_path, self._random)
        except BaseException:
            self._known.forget_session()
            raise
        self._kept = KeptTopics(self._state_path, self._client_id.text, self._topics_unread)
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
        if self._newest is not None:  # what came by it may still be taken when it has ended
            await self._newest.close()
        self._set_link(None)
        self._connector.close()
        if self._client_id is not None:
            self._client_id.release()  # only now: its next user would throw this link out
            self._client_id = None

    def status(self) -> Check:
        """Whether messages can come in now."""
        broker, link = self._brokers.current, self._link
        if link is None:
            return Check("mqtt", ok=False, text=f"{broker}: {self._why_not}")
        text = f"{broker}, MQTT {link.protocol}"
        for lacking in link.lacks():
            text += f"; the broker does not have {lacking}"
        if self._refused:
            text += f"; the broker refuses subscriptions to {named(list(self._refused))}"
        return Check("mqtt", ok=not self._refused, text=text)

    def reconfigured(self) -> None:
        """Subscribe to what flows begin at now; the session and its messages stay."""
        self._taking.topics = Topics(self._mqtt.topic, self._flows())
        self._cut_at.clear()
        if self._link is not None:
            change = asyncio.create_task(self._change(self._link))
            self._changes.add(change)
            change.add_done_callback(self._changes.discard)

    async def _change(self, link: Link) -> None:
        try:
            await self._subscribe(link)
        except (LinkFailed, OSError) as error:
            self._telemetry.problem("resubscribe_failed", reason=str(error))
            link.abort()  # the next connection subscribes to everything anew
        except Exception as error:  # noqa: BLE001 - the top of the task
            self._telemetry.problem("resubscribe_failed", reason=repr(error), exc_info=error)
            link.abort()

    async def _subscribe(self, link: Link) -> None:
        """Subscribe to what is wanted, then take back what is not. Raises LinkFailed, OSError."""
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
        broker = self._brokers.current
        before = await asyncio.to_thread(kept.read)
        # First, as an end may come between.
        await asyncio.to_thread(kept.write, broker, before | wanted)
        self._refused = await self._followed(link, topics.filters)
        for topic_filter, why in self._refused.items():
            self._telemetry.problem(
                "topic_refused", topic=topic_filter, broker=str(self._brokers.current), reason=why
            )
        for topic_filter in sorted(before - wanted):
            await link.subscriptions.drop(topic_filter)
        await asyncio.to_thread(kept.write, broker, wanted)

    def _topics_unread(self, path: Path, reason: str) -> None:
        self._telemetry.problem("topics_forgotten", path=str(path), reason=reason)

    async def _followed(self, link: Link, filters: frozenset[str]) -> dict[str, str]:
        """Which of them the broker refuses, and why. Raises LinkFailed.

        A broker may refuse by ending the connection, which would never stay then.
        """
        given_up = {each: "the broker ends the connection at it" for each in filters
                    if self._cut_at[each] >= GIVEN_UP_AT}  # fmt: skip
        try:
            refused = await link.subscriptions.follow(filters - given_up.keys())
        except LinkFailed as failed:
            if failed.cut and failed.topic_filter is not None:
                self._cut_at[failed.topic_filter] += 1
            raise
        for each in filters - given_up.keys():  # only ends in a row count
            del self._cut_at[each]
        return {**refused, **given_up}

    def _set_link(self, link: Link | None) -> None:
        self._link = self._publisher.link = link

    async def _stay_connected(self, client_id: str) -> None:
        """First connect and reconnect are one path."""
        tries = 0
        while not self._stopping:  # wait_for may swallow a cancellation (Python before 3.12)
            began_s = self._clock.monotonic_s()
            broker, fault, at_once = self._brokers.current, None, False
            link = self._new_link(client_id)
            try:
                await self._open(link)
            except LinkFailed as error:
                self._why_not = str(error)
                at_once = self._brokers.failed(error.answer)
            except OSError as error:  # in the state folder: a full disk, or it is not there
                self._why_not = str(error)
            except Exception as error:  # noqa: BLE001 - the top of the task
                # Nobody foresaw it, and it may pass: without this task there is no MQTT any more.
                self._why_not, fault = f"{type(error).__name__}: {error}", error
            else:
                self._brokers.opened()
                self._set_link(link)
                if self._stopping:
                    return
                self._say_connected(link)
                self._why_not = await asyncio.shield(link.closed)
                self._set_link(None)
                await self._learn_of_status(link)
                if link.ended_by_ours:  # the broker is well, and the message is not sent at once
                    tries = 0
            await link.settle()
            if self._clock.monotonic_s() - began_s > STEADY_AFTER_S:
                tries = 0
            tries += not at_once
            again_s = 0 if at_once else self._again_s(tries)
            self._telemetry.problem(
                "mqtt_down",
                broker=str(broker),
                reason=self._why_not,
                again_s=round(again_s, 1),
                exc_info=fault,
            )
            await asyncio.sleep(again_s)

    def _say_connected(self, link: Link) -> None:
        broker = str(self._brokers.current)
        session = "resumed" if link.resumed else "new"
        self._telemetry.event(
            "mqtt_connected", broker=broker, protocol=link.protocol, session=session
        )
        for lacking in link.lacks():
            self._telemetry.problem("mqtt_lacks", broker=broker, what=lacking)

    async def _learn_of_status(self, link: Link) -> None:
        """A broker may end the connection at a message that it refuses, or in place of that."""
        await link.wait_said()
        broker = self._brokers.current
        if link.status_taken:  # only ends in a row count
            del self._cut_by_status[broker]
        self._cut_by_status[broker] += link.cut_by_status
        if link.status_refused or self._cut_by_status[broker] >= GIVEN_UP_AT:
            self._brokers.learn(Answer.NO_STATUS)

    async def _open(self, link: Link) -> None:
        try:
            await link.open(numbered=bool(self._taking.topics.filters))
            await self._subscribe(link)
        except asyncio.CancelledError:  # `stop` closes it
            raise
        except LinkFailed:
            link.abort()
            await self._learn_of_status(link)  # it leaves while topics are subscribed to
            raise
        except BaseException:
            link.abort()  # nothing may come in by it any more
            raise

    def _again_s(self, tries: int) -> float:
        """Doubling to a bound, half of it chance: a fleet must not come back as one."""
        full = min(AGAIN_AT_MOST_S, AGAIN_FIRST_S * 2 ** min(tries - 1, 10))
        return full * (0.5 + self._random.fraction() / 2)

    def _new_link(self, client_id: str) -> Link:
        broker = self._brokers.current
        self._newest = Link(
            To(self._mqtt, broker, client_id, self._brokers.options, self._connector),
            self._taking.take,
            self._wait_for_room,
            self._max_trigger_bytes,
            self._known.answered(broker, client_id, self._mqtt),
            self._telemetry,
        )
        return self._newest

    async def _wait_for_room(self) -> int:
        """Comes to how many milliseconds it took, suspended ones too."""
        since_ms = self._clock.steady_ms()
        await self._intake.wait_for_room()
        return self._clock.steady_ms() - since_ms
