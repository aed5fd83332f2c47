"""What a process knows of its brokers: a reload ends the connection, and forgets none of it.

The next connection may resume the session of the last one: with other options, but with what had no
answer before.
"""

from __future__ import annotations

from fractal_rm.adapters.mqtt.answered import Answered
from fractal_rm.adapters.mqtt.connect_options import OptionsInTurn
from fractal_rm.config.model import Broker, Mqtt
from fractal_rm.domain.topic import unshared

# A broker of MQTT 3.1.1 is not told a Receive Maximum, and Mosquitto 2.0.11 does not count for it
# what it sends again. Their own bounds are lower: 20 in Mosquitto, 100 in NATS, 10 in RabbitMQ.
AT_ONCE_AT_LEAST = 1_000
MOST_KEPT = 16


class KnownBrokers:
    """One for a process. What was answered is kept of the last session only."""

    def __init__(self) -> None:
        self._options: dict[tuple[Broker, str | None], OptionsInTurn] = {}
        self._whose: object = None
        self._answered = Answered(AT_ONCE_AT_LEAST)

    def options(self, broker: Broker, version: str | None) -> OptionsInTurn:
        """How a way in that begins speaks to it: in the version that it has shown to speak."""
        before = self._options.pop((broker, version), None)
        known = OptionsInTurn(version) if before is None else before.after_reload()
        if len(self._options) >= MOST_KEPT:
            del self._options[next(iter(self._options))]
        self._options[broker, version] = known
        return known

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

    def forget_session(self) -> None:
        """Another process may have it from here on."""
        self._whose = None
