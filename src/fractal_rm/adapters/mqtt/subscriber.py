"""Keeps the subscriptions of each connection as they are configured."""

from __future__ import annotations

import asyncio
from collections import Counter

from fractal_rm.adapters.mqtt.brokers import Brokers
from fractal_rm.adapters.mqtt.connection import Connection
from fractal_rm.adapters.mqtt.errors import NotConnected
from fractal_rm.adapters.mqtt.flow_topics import FlowTopics
from fractal_rm.adapters.mqtt.receiver import Receiver
from fractal_rm.adapters.mqtt.subscription_file import SubscriptionFile
from fractal_rm.engine.ports import Telemetry

MAX_CUTS = 2  # ends of the connection at one filter; then the filter is left out


class Subscriber:
    """``refused`` has the filters that the broker refuses, each with the reason."""

    def __init__(
        self, receiver: Receiver, file: SubscriptionFile, brokers: Brokers, telemetry: Telemetry
    ) -> None:
        self._receiver = receiver
        self._file = file
        self._brokers = brokers
        self._telemetry = telemetry
        self._one_at_a_time = asyncio.Lock()
        self._cuts: Counter[str] = Counter()  # how often the connection ended at a filter
        self._changes: set[asyncio.Task[None]] = set()
        self.refused: dict[str, str] = {}

    async def subscribe(self, connection: Connection) -> None:
        """Subscribe to new topics, then unsubscribe from others. Raises NotConnected, OSError."""
        async with self._one_at_a_time:
            topics = None
            while topics is not self._receiver.topics:  # they may change meanwhile
                topics = self._receiver.topics
                await self._subscribe(connection, topics)

    def topics_changed(self, connection: Connection | None) -> None:
        """The receiver has other topics: apply them to the open connection."""
        self._cuts.clear()
        if connection is not None:
            change = asyncio.create_task(self._change(connection))
            self._changes.add(change)
            change.add_done_callback(self._changes.discard)

    async def stop(self) -> None:
        """Cancel changes that are not complete."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def _change(self, connection: Connection) -> None:
        try:
            await self.subscribe(connection)
        except (NotConnected, OSError) as error:
            self._telemetry.problem("resubscribe_failed", reason=str(error))
            connection.abort()  # the next connection subscribes to everything
        except Exception as error:  # noqa: BLE001 - the top of the task
            self._telemetry.problem("resubscribe_failed", reason=repr(error), exc_info=error)
            connection.abort()

    async def _subscribe(self, connection: Connection, topics: FlowTopics) -> None:
        wanted = topics.filters | {topics.trigger_topic}
        broker = self._brokers.current
        before = await asyncio.to_thread(self._file.read)
        # Before the broker is asked, as the process may end in between.
        await asyncio.to_thread(self._file.write, broker, before | wanted)
        self.refused = await self._follow(connection, topics.filters)
        for topic_filter, reason in self.refused.items():
            self._telemetry.problem(
                "topic_refused", topic=topic_filter, broker=str(broker), reason=reason
            )
        for topic_filter in sorted(before - wanted):
            await connection.subscriptions.unsubscribe(topic_filter)
        await asyncio.to_thread(self._file.write, broker, wanted)

    async def _follow(self, connection: Connection, filters: frozenset[str]) -> dict[str, str]:
        """Returns the refused filters, each with the reason. Raises NotConnected.

        A broker may refuse a filter by closing the connection. If it were requested again each
        time, no connection would last.
        """
        given_up = {
            each: "the broker closes the connection at this filter"
            for each in filters
            if self._cuts[each] >= MAX_CUTS
        }
        try:
            refused = await connection.subscriptions.follow(filters - given_up.keys())
        except NotConnected as error:
            if error.cut and error.topic_filter is not None:
                self._cuts[error.topic_filter] += 1
            raise
        for each in filters - given_up.keys():  # only ends in a row count
            del self._cuts[each]
        return {**refused, **given_up}
