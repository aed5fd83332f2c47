"""The options of a CONNECT: which version of MQTT, and what is left out as the broker lacks it.

A broker that does not speak MQTT 5 says so in its CONNACK (MQTT 5, 3.1.2.2), closes the connection,
or says nothing. The last two have other reasons, too, such as a proxy whose broker is away: they
count at the second time, only as long as the broker has not answered any CONNECT of this process,
and only where it answers to other options right after that.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from fractal_rm.adapters.mqtt.codes import NO_QOS, NO_RETAINED, OTHER_VERSION, REFUSED


class ConnectOptions(msgspec.Struct, frozen=True):
    """``retain`` and ``qos``: of the will and of the node's status.

    ``status``: whether that is published, other than as the will.
    """

    mqtt_5: bool = True
    retain: bool = True
    qos: int = 1
    status: bool = True


class Answer(Enum):
    """What came of a connection, as far as it says how to make the next one."""

    NONE = "none"  # it did not leave
    SILENCE = "silence"  # the connection ended, or time was over, before a CONNACK
    OTHER_VERSION = "other version"
    NO_RETAINED = "no retained messages"
    NO_QOS = "no QoS 1"
    NO_STATUS = "no status of this node"
    OTHER = "other"


_FIVE, _OLDER = ConnectOptions(), ConnectOptions(mqtt_5=False)
# A broker of 3.1.1 that lacks what a will needs closes the connection, and does not say why.
_PLAIN = (
    ConnectOptions(mqtt_5=False, retain=False),
    ConnectOptions(mqtt_5=False, retain=False, qos=0),
)
SILENT_TWICE = 2  # so many options of each turn are the same
_IN_TURN = {
    None: (_FIVE, _FIVE, _OLDER, *_PLAIN),
    "5": (_FIVE,),
    "3.1.1": (_OLDER, _OLDER, *_PLAIN),
}


def answer_of(code: int | None, *, mqtt_5: bool) -> Answer:
    """What the code of a CONNACK says; None: there was none."""
    if code is None:
        return Answer.SILENCE
    if code == OTHER_VERSION or (0 < code < REFUSED and (mqtt_5 or code == 1)):
        return Answer.OTHER_VERSION  # codes below 0x80 are refusals of MQTT 3.1.1
    return {NO_RETAINED: Answer.NO_RETAINED, NO_QOS: Answer.NO_QOS}.get(code, Answer.OTHER)


class OptionsInTurn:
    """Of one broker, for the life of a process. ``version`` is that of the configuration."""

    def __init__(self, version: str | None, at: int = 0, *, answered: bool = False) -> None:
        self._version = version
        self._in_turn = _IN_TURN[version]
        self._at = at
        self._answered = answered
        self._lacks: dict[str, bool | int] = {}

    def after_reload(self) -> OptionsInTurn:
        """Its version stays, where it has answered; what it lacked is asked for again."""
        at = self._at if self._answered else 0
        return OptionsInTurn(self._version, at, answered=self._answered)

    @property
    def options(self) -> ConnectOptions:
        """How to connect next."""
        return msgspec.structs.replace(self._in_turn[self._at], **self._lacks)

    def learn(self, answer: Answer) -> bool:
        """Learn from a connection. True: there are other options to be tried at once."""
        before = self.options
        if answer is Answer.SILENCE and not self._answered:
            self._at = (self._at + 1) % len(self._in_turn)
            return self._at >= SILENT_TWICE  # later, another reason may have passed
        if answer is Answer.NONE and not self._answered:
            self._at = 0  # it is away, so that its silence was for no option of ours
            return False
        if answer is Answer.OTHER_VERSION:
            self._at = self._of_other_version(before)
            return before.mqtt_5 and not self.options.mqtt_5
        if answer is Answer.NO_RETAINED:
            self._lacks["retain"] = False
        elif answer is Answer.NO_QOS:
            self._lacks["qos"] = 0
        elif answer is Answer.NO_STATUS:
            self._lacks["status"] = False
        elif answer is Answer.OTHER:
            self._answered = True
        return self.options != before

    def _of_other_version(self, options: ConnectOptions) -> int:
        others = (at for at, each in enumerate(self._in_turn) if each.mqtt_5 is not options.mqtt_5)
        return next(others, self._at)
