"""Makes connections. The broker and the options depend on the results of earlier connections."""

from __future__ import annotations

from collections import Counter

from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.mqtt.broker_memory import BrokerMemory
from fractal_rm.adapters.mqtt.brokers import Brokers
from fractal_rm.adapters.mqtt.client import Target
from fractal_rm.adapters.mqtt.connect_options import ConnectResult
from fractal_rm.adapters.mqtt.connection import Connection
from fractal_rm.adapters.mqtt.receiver import Receiver
from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.engine.ports import Telemetry

# If this number of connections in a row end while this node publishes its status, the status is not
# published any more.
MAX_ENDS_AT_STATUS = 2


class Dialer:
    """Makes connections. All of them have the same client id and the same receiver."""

    def __init__(
        self,
        mqtt: Mqtt,
        client_id: str,
        brokers: Brokers,
        receiver: Receiver,
        connector: Connector,
        memory: BrokerMemory,
        telemetry: Telemetry,
    ) -> None:
        self._mqtt = mqtt
        self._client_id = client_id
        self._brokers = brokers
        self._receiver = receiver
        self._connector = connector
        self._memory = memory
        self._telemetry = telemetry
        # By broker: how many connections in a row have ended while the status was being published.
        self._ends_at_status: Counter[Broker] = Counter()

    @property
    def broker(self) -> Broker:
        """The broker of the open connection; if none is open, the broker of the next connection."""
        return self._brokers.current

    def new_connection(self) -> Connection:
        """Make a connection that is not open yet."""
        broker = self._brokers.current
        options, connector = self._brokers.options, self._connector
        return Connection(
            Target(self._mqtt, broker, self._client_id, options, connector),
            self._receiver,
            self._memory.acknowledged(broker, self._client_id, self._mqtt),
            self._telemetry,
        )

    def note_opened(self) -> None:
        """Note that the connection was opened. From now on, its broker is tried first."""
        self._brokers.note_opened()

    def note_failed(self, result: ConnectResult) -> bool:
        """Note that the connection was not opened. Returns whether to retry at once."""
        return self._brokers.note_failed(result)

    async def learn_from_status(self, connection: Connection) -> None:
        """When a connection has ended, note whether the broker refuses this node's status.

        A broker may refuse the status by a PUBACK, or by closing the connection.
        """
        await connection.status.wait_until_known()
        broker = self._brokers.current
        if connection.status.accepted:
            del self._ends_at_status[broker]
        self._ends_at_status[broker] += connection.status.ended_connection
        if connection.status.refused or self._ends_at_status[broker] >= MAX_ENDS_AT_STATUS:
            self._brokers.learn(ConnectResult.NO_STATUS)

    def close(self) -> None:
        """Make no more connections."""
        self._connector.close()
