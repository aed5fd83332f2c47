"""Chooses the broker and the options of each connection, from what earlier ones have shown."""

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

MAX_STATUS_CUTS = 2  # ends of the connection at the status; then it is not published any more


class Dialer:
    """Every connection has the same client id and the same receiver."""

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
        self._status_cuts: Counter[Broker] = Counter()  # how often the connection ended at it

    @property
    def broker(self) -> Broker:
        """The broker of the next connection, or of the current one."""
        return self._brokers.current

    def new_connection(self) -> Connection:
        """A connection that is not open yet."""
        broker = self._brokers.current
        options, connector = self._brokers.options, self._connector
        return Connection(
            Target(self._mqtt, broker, self._client_id, options, connector),
            self._receiver,
            self._memory.acknowledged(broker, self._client_id, self._mqtt),
            self._telemetry,
        )

    def opened(self) -> None:
        """The connection was opened: its broker is used first from now on."""
        self._brokers.opened()

    def failed(self, result: ConnectResult) -> bool:
        """The connection was not opened. Returns whether to try again at once."""
        return self._brokers.failed(result)

    async def learn_from_status(self, connection: Connection) -> None:
        """After the end of a connection: note whether the broker refuses this node's status.

        A broker may close the connection instead of a refusal, or after it.
        """
        await connection.status.wait_until_known()
        broker = self._brokers.current
        if connection.status.accepted:  # only ends in a row count
            del self._status_cuts[broker]
        self._status_cuts[broker] += connection.status.cut
        if connection.status.refused or self._status_cuts[broker] >= MAX_STATUS_CUTS:
            self._brokers.learn(ConnectResult.NO_STATUS)

    def close(self) -> None:
        """Make no more connections."""
        self._connector.close()
