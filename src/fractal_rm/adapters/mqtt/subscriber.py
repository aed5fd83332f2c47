"""Subscribes each connection to the topics of the configuration."""

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

# If this number of connections in a row end while a filter is requested, the filter is not
# requested any more.
MAX_ENDS_AT_FILTER = 2


class Subscriber:
    """Subscribes to the receiver's topics, and unsubscribes from all others.

    ``refused`` contains the filters that the broker refuses, each with the reason.
    """

    def __init__(
        self, receiver: Receiver, file: SubscriptionFile, brokers: Brokers, telemetry: Telemetry
    ) -> None:
        self._receiver = receiver
        self._file = file
        self._brokers = brokers
        self._telemetry = telemetry
        self._one_at_a_time = asyncio.Lock()
        # By filter: how many connections in a row have ended while it was requested.
        self._ends_at_filter: Counter[str] = Counter()
        self._changes: set[asyncio.Task[None]] = set()
        self.refused: dict[str, str] = {}

    async def subscribe(self, connection: Connection) -> None:
        """Subscribe to new topics, then unsubscribe from removed ones.

        Raises NotConnected, OSError.
        """
        async with self._one_at_a_time:
            topics = None
            # The receiver's topics may change while they are applied.
            while topics is not self._receiver.topics:
                topics = self._receiver.topics
                await self._subscribe(connection, topics)

    def topics_changed(self, connection: Connection | None) -> None:
        """Apply the receiver's new topics to the open connection."""
        self._ends_at_filter.clear()
        if connection is not None:
            change = asyncio.create_task(self._change(connection))
            self._changes.add(change)
            change.add_done_callback(self._changes.discard)

    async def stop(self) -> None:
        """Cancel the changes of topics that are in progress."""
        for change in self._changes:
            change.cancel()
        await asyncio.gather(*self._changes, return_exceptions=True)

    async def _change(self, connection: Connection) -> None:
        try:
            await self.subscribe(connection)
        except (NotConnected, OSError) as error:
            self._telemetry.problem("resubscribe_failed", reason=str(error))
            connection.abort()  # the next connection subscribes to all topics
        except Exception as error:  # noqa: BLE001 - the top of the task
            self._telemetry.problem("resubscribe_failed", reason=repr(error), exc_info=error)
            connection.abort()

    async def _subscribe(self, connection: Connection, topics: FlowTopics) -> None:
        new_filters = topics.filters | {topics.trigger_topic}
        broker = self._brokers.current
        stored = await asyncio.to_thread(self._file.read)
        # Filters are stored before they are requested: the process may end before the answer.
        await asyncio.to_thread(self._file.write, broker, stored | new_filters)
        self.refused = await self._subscribe_to_flows(connection, topics.filters)
        for topic_filter, reason in self.refused.items():
            self._telemetry.problem(
                "topic_refused", topic=topic_filter, broker=str(broker), reason=reason
            )
        for topic_filter in sorted(stored - new_filters):
            await connection.subscriptions.unsubscribe(topic_filter)
        await asyncio.to_thread(self._file.write, broker, new_filters)

    async def _subscribe_to_flows(
        self, connection: Connection, filters: frozenset[str]
    ) -> dict[str, str]:
        """Subscribe to the filters of flows. Returns the refused filters, each with the reason.

        A broker may refuse a filter by closing the connection. After two such connections, the
        filter is not requested any more, since each later connection would end, too.

        Raises NotConnected.
        """
        not_requested = {
            each: "the broker closes the connection when this filter is requested"
            for each in filters
            if self._ends_at_filter[each] >= MAX_ENDS_AT_FILTER
        }
        requested = filters - not_requested.keys()
        try:
            refused = await connection.subscriptions.subscribe_to_flows(requested)
        except NotConnected as error:
            if error.closed_by_broker and error.topic_filter is not None:
                self._ends_at_filter[error.topic_filter] += 1
            raise
        for each in requested:
            del self._ends_at_filter[each]
        return {**refused, **not_requested}
