"""What was answered in the session at a broker, for as long as this process goes on with that one.

A reload ends the connection, and the next one may resume its session: with other options, but with
what had no answer before.
"""

from __future__ import annotations

from fractal_rm.adapters.mqtt.answered import Answered
from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.domain.topic import unshared

# A broker of MQTT 3.1.1 is not told a Receive Maximum, and Mosquitto 2.0.11 does not count for it
# what it sends again. Their own bounds are lower: 20 in Mosquitto, 100 in NATS, 10 in RabbitMQ.
AT_ONCE_AT_LEAST = 1_000


class LastSession:
    """One for a process. Of a session before the last one nothing is kept."""

    def __init__(self) -> None:
        self._whose: object = None
        self._answered = Answered(AT_ONCE_AT_LEAST)

    def answered(self, broker: Broker, client_id: str, mqtt: Mqtt) -> Answered:
        """Of the session that the next connection may resume; nothing where it is another one.

        The user, whom a broker knows by name or certificate, counts too: it may have a virtual host
        (RabbitMQ) or an account (NATS), with sessions of its own.
        """
        certificate = mqtt.tls.cert if mqtt.tls is not None else None
        whose = (broker, client_id, mqtt.username, certificate)
        at_once, own = max(mqtt.receive_maximum, AT_ONCE_AT_LEAST), unshared(mqtt.topic)
        if whose != self._whose:
            self._whose, self._answered = whose, Answered(at_once, own)
        self._answered.reconfigured(at_once, own)
        return self._answered

    def forget(self) -> None:
        """Another process may have the session from here on."""
        self._whose = None
