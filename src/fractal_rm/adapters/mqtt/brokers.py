"""The configured brokers: which one is tried next, with which options."""

from __future__ import annotations

from fractal_rm.adapters.mqtt.broker_memory import BrokerMemory
from fractal_rm.adapters.mqtt.connect_options import ConnectOptions, ConnectResult
from fractal_rm.config.model import Broker, Mqtt


class Brokers:
    """They are tried in turn. A broker that accepted a connection is tried first again."""

    def __init__(self, mqtt: Mqtt, memory: BrokerMemory) -> None:
        self._brokers = [(each, memory.options(each, mqtt.version)) for each in mqtt.brokers]
        self._at = 0
        self._last = len(self._brokers) - 1  # of the current round

    @property
    def current(self) -> Broker:
        """The broker to connect to."""
        return self._brokers[self._at][0]

    @property
    def options(self) -> ConnectOptions:
        """The options to connect with."""
        return self._brokers[self._at][1].options

    def opened(self) -> None:
        """The current broker has accepted a connection: the next round begins with it."""
        self.learn(ConnectResult.OTHER)
        self._last = (self._at - 1) % len(self._brokers)

    def learn(self, result: ConnectResult) -> bool:
        """See `BrokerOptions.learn`, for the current broker."""
        return self._brokers[self._at][1].learn(result)

    def failed(self, result: ConnectResult) -> bool:
        """Connecting to the current broker failed. Returns whether to try again at once.

        The next try is the same broker with other options, or the next broker, until each broker
        was tried.
        """
        if self.learn(result):
            return True
        round_is_over = self._at == self._last
        self._at = (self._at + 1) % len(self._brokers)
        return not round_is_over
