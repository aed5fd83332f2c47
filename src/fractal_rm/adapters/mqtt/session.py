"""The session of this process with its MQTT brokers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from fractal_rm.adapters.connect import Connector
from fractal_rm.adapters.mqtt.broker_memory import BrokerMemory
from fractal_rm.adapters.mqtt.brokers import Brokers
from fractal_rm.adapters.mqtt.client_id import ClientId
from fractal_rm.adapters.mqtt.connect_loop import ConnectLoop
from fractal_rm.adapters.mqtt.connection import Connection
from fractal_rm.adapters.mqtt.dialer import Dialer
from fractal_rm.adapters.mqtt.open_connection import OpenConnection
from fractal_rm.adapters.mqtt.publisher import MqttPublisher
from fractal_rm.adapters.mqtt.receiver import Receiver
from fractal_rm.adapters.mqtt.subscriber import Subscriber
from fractal_rm.adapters.mqtt.subscription_file import SubscriptionFile
from fractal_rm.config.model import Mqtt
from fractal_rm.engine.ports import Clock, Random, ReadinessCheck, Telemetry


class MqttSession:
    """Owns the connection to the broker. `open` starts receiving, and ``publisher`` sends.

    A process has one instance. A reload closes the connection, and opens another connection with
    the new settings. The publisher and the `BrokerMemory` remain the same.
    """

    def __init__(
        self,
        state_path: Path,
        clock: Clock,
        random: Random,
        telemetry: Telemetry,
        new_connector: Callable[[], Connector],
    ) -> None:
        self._state_path = state_path
        self._clock = clock
        self._random = random
        self._telemetry = telemetry
        self._new_connector = new_connector
        self._memory = BrokerMemory()
        self._open_connection = OpenConnection()
        self._client_id: ClientId | None = None
        self._loop: ConnectLoop | None = None
        self.publisher = MqttPublisher(self._open_connection)

    @property
    def connection(self) -> Connection | None:
        """The open connection; None while no connection is open."""
        return self._open_connection.connection

    def open(self, mqtt: Mqtt, receiver: Receiver) -> None:
        """Start connecting, and reconnect until `close`.

        Raises ClientIdInUse, ClientIdUnreadable. Raises OSError if the client id cannot be stored.
        """
        try:
            client_id = ClientId(mqtt.client_id, self._state_path, self._random)
        except BaseException:
            self._memory.forget_session()
            raise
        self._client_id = client_id
        telemetry, brokers = self._telemetry, Brokers(mqtt, self._memory)
        dialer = Dialer(
            mqtt, client_id.text, brokers, receiver, self._new_connector(), self._memory,
            telemetry,
        )  # fmt: skip
        file = SubscriptionFile(self._state_path, client_id.text, self._report_unreadable)
        subscriber = Subscriber(receiver, file, brokers, telemetry)
        self._loop = ConnectLoop(
            dialer,
            subscriber,
            receiver,
            self._open_connection.set,
            self._clock,
            self._random,
            telemetry,
        )
        self._loop.start()

    async def close(self) -> None:
        """Disconnect cleanly; see `ConnectLoop.stop`."""
        loop, self._loop = self._loop, None
        if loop is not None:
            await loop.stop()
        if self._client_id is not None:
            # Release the id last: another process with the same id would disconnect this one.
            self._client_id.release()
            self._client_id = None

    def topics_changed(self) -> None:
        """Apply the receiver's new topics to the open connection, if there is one."""
        if self._loop is not None:
            self._loop.topics_changed(self.connection)

    def status(self) -> ReadinessCheck:
        """Whether messages can be received now."""
        if self._loop is None:
            return ReadinessCheck("mqtt", ok=False, text="not started")
        return self._loop.status(self.connection)

    def _report_unreadable(self, path: Path, reason: str) -> None:
        self._telemetry.problem("subscriptions_unreadable", path=str(path), reason=reason)
