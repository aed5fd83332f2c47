"""The configured brokers, and which of them the next connection uses."""

from __future__ import annotations

from fractal_rm.adapters.mqtt.broker_memory import BrokerMemory
from fractal_rm.adapters.mqtt.connect_options import ConnectOptions, ConnectResult
from fractal_rm.config.model import Broker, Mqtt


class Brokers:
    """The configured brokers, which are tried in turn.

    After a connection has ended, its broker is tried first.
    """

    def __init__(self, mqtt: Mqtt, memory: BrokerMemory) -> None:
        self._brokers = [(each, memory.options(each, mqtt.version)) for each in mqtt.brokers]
        self._index = 0
        self._last_index = len(self._brokers) - 1  # the last broker of this round

    @property
    def current(self) -> Broker:
        """The broker to connect to."""
        broker, _ = self._brokers[self._index]
        return broker

    @property
    def options(self) -> ConnectOptions:
        """The options to connect with."""
        _, broker_options = self._brokers[self._index]
        return broker_options.options

    def note_opened(self) -> None:
        """Begin the next round with the current broker, which has accepted a connection."""
        self.learn(ConnectResult.OTHER)
        self._last_index = (self._index - 1) % len(self._brokers)

    def learn(self, result: ConnectResult) -> bool:
        """Call `BrokerOptions.learn` for the current broker; returns its result."""
        _, broker_options = self._brokers[self._index]
        return broker_options.learn(result)

    def note_failed(self, result: ConnectResult) -> bool:
        """Note that connecting to the current broker failed. Returns whether to retry at once.

        The next try uses the same broker with other options, or the next broker. When all brokers
        were tried, the round is over and the result is False.
        """
        retry_same_broker = self.learn(result)
        if retry_same_broker:
            return True
        round_is_over = self._index == self._last_index
        self._index = (self._index + 1) % len(self._brokers)
        return not round_is_over
