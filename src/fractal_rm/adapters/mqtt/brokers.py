"""The brokers of the configuration: which one is next, and how it is spoken to."""

from __future__ import annotations

from fractal_rm.adapters.mqtt.connect_options import Answer, ConnectOptions
from fractal_rm.adapters.mqtt.known_brokers import KnownBrokers
from fractal_rm.config.model import Broker, Mqtt


class Brokers:
    """They are tried in turn. One that could be reached stays the current one."""

    def __init__(self, mqtt: Mqtt, known: KnownBrokers) -> None:
        self._brokers = [(each, known.options(each, mqtt.version)) for each in mqtt.brokers]
        self._at = 0
        self._last = len(self._brokers) - 1  # of the round that goes on

    @property
    def current(self) -> Broker:
        """Where to connect."""
        return self._brokers[self._at][0]

    @property
    def options(self) -> ConnectOptions:
        """How to connect there."""
        return self._brokers[self._at][1].options

    def opened(self) -> None:
        """The current one is connected; when it ends, the next round begins with it."""
        self.learn(Answer.OTHER)
        self._last = (self._at - 1) % len(self._brokers)

    def learn(self, answer: Answer) -> bool:
        """Take up what the current one says. True: there are other options to be tried at once."""
        return self._brokers[self._at][1].learn(answer)

    def failed(self, answer: Answer) -> bool:
        """The current one could not be connected. True: there is another way to be tried at once.

        It is the same one with other options, or the next one, until each has been tried.
        """
        if self.learn(answer):
            return True
        round_is_over = self._at == self._last
        self._at = (self._at + 1) % len(self._brokers)
        return not round_is_over
