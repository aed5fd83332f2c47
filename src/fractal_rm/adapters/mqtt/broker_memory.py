"""What this process has learned about its brokers. A reload keeps this information.

A reload closes the connection. The next connection may resume the same broker session with other
options. The broker then redelivers the unacknowledged messages.
"""

from __future__ import annotations

from fractal_rm.adapters.mqtt.acknowledged import AcknowledgedMessages
from fractal_rm.adapters.mqtt.connect_options import BrokerOptions
from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.domain.topic import unshared

# A broker sends fewer messages than this before it waits for PUBACKs: Mosquitto 20, NATS 100,
# RabbitMQ 10. Our Receive Maximum alone does not limit this number: MQTT 3.1.1 has no Receive
# Maximum, and Mosquitto 2.0.11 does not apply it to redelivered messages.
MIN_WINDOW = 1_000
MAX_BROKERS = 16


class BrokerMemory:
    """The connect options of each broker, and the acknowledged messages of the last session.

    A process has one instance.
    """

    def __init__(self) -> None:
        self._options: dict[tuple[Broker, str | None], BrokerOptions] = {}
        self._session: object = None
        self._acknowledged = AcknowledgedMessages(MIN_WINDOW)

    def options(self, broker: Broker, version: str | None) -> BrokerOptions:
        """The options for the first connection to ``broker`` after a start or a reload.

        ``version`` is the configured MQTT version.
        """
        old = self._options.pop((broker, version), None)
        options = BrokerOptions(version) if old is None else old.after_reload()
        if len(self._options) >= MAX_BROKERS:
            del self._options[next(iter(self._options))]
        self._options[broker, version] = options
        return options

    def acknowledged(self, broker: Broker, client_id: str, mqtt: Mqtt) -> AcknowledgedMessages:
        """The acknowledged messages of a session; empty if it is not the last session.

        A session is identified by broker, client id, user name and client certificate. Each user
        may have separate sessions: in a virtual host (RabbitMQ) or in an account (NATS).
        """
        certificate = mqtt.tls.cert if mqtt.tls is not None else None
        session = (broker, client_id, mqtt.username, certificate)
        window, trigger_topic = max(mqtt.receive_maximum, MIN_WINDOW), unshared(mqtt.topic)
        if session != self._session:
            self._session = session
            self._acknowledged = AcknowledgedMessages(window, trigger_topic)
        self._acknowledged.reconfigured(window, trigger_topic)
        return self._acknowledged

    def forget_session(self) -> None:
        """Forget the acknowledged messages, since another process may use the session now."""
        self._session = None
