"""The options of a CONNECT packet: the MQTT version, and the features to leave out.

A broker that does not support MQTT 5 says so in its CONNACK (MQTT 5, 3.1.2.2), closes the
connection, or does not answer. The last two can have other causes, such as a proxy whose broker is
down. So they count only from the second time on, only while the broker has answered no CONNECT of
this process, and only if it answers a CONNECT with other options right after that.
"""

from __future__ import annotations

from enum import Enum

import msgspec

from fractal_rm.adapters.mqtt.reason_codes import (
    NO_QOS,
    NO_RETAINED,
    REFUSED,
    UNSUPPORTED_VERSION,
)


class ConnectOptions(msgspec.Struct, frozen=True):
    """``retain`` and ``qos`` are for the will and the status of this node.

    ``status``: whether the status is also published, and not only set as the will.
    """

    mqtt_5: bool = True
    retain: bool = True
    qos: int = 1
    status: bool = True


class ConnectResult(Enum):
    """What a connection has shown about the options to use for the next one."""

    NOT_SENT = "not sent"  # the CONNECT packet did not leave
    SILENCE = "silence"  # the connection ended, or the time limit passed, before a CONNACK
    OTHER_VERSION = "other version"
    NO_RETAINED = "no retained messages"
    NO_QOS = "no QoS 1"
    NO_STATUS = "no status of this node"
    OTHER = "other"


_MQTT_5, _MQTT_3 = ConnectOptions(), ConnectOptions(mqtt_5=False)
# A 3.1.1 broker that does not support what a will needs closes the connection without a reason.
_PLAIN = (
    ConnectOptions(mqtt_5=False, retain=False),
    ConnectOptions(mqtt_5=False, retain=False, qos=0),
)
SAME_AT_FIRST = 2  # how many times the first options of each list are tried
_BY_VERSION = {
    None: (_MQTT_5, _MQTT_5, _MQTT_3, *_PLAIN),
    "5": (_MQTT_5,),
    "3.1.1": (_MQTT_3, _MQTT_3, *_PLAIN),
}


def connect_result(code: int | None, *, mqtt_5: bool) -> ConnectResult:
    """What the code of a CONNACK shows; None: no CONNACK came."""
    if code is None:
        return ConnectResult.SILENCE
    if code == UNSUPPORTED_VERSION or (0 < code < REFUSED and (mqtt_5 or code == 1)):
        return ConnectResult.OTHER_VERSION  # codes below 0x80 are errors of MQTT 3.1.1
    return {NO_RETAINED: ConnectResult.NO_RETAINED, NO_QOS: ConnectResult.NO_QOS}.get(
        code, ConnectResult.OTHER
    )


class BrokerOptions:
    """The options for one broker, for the life of a process.

    ``version`` is the configured one. ``answered``: the broker has accepted a CONNECT.
    """

    def __init__(self, version: str | None, at: int = 0, *, answered: bool = False) -> None:
        self._version = version
        self._list = _BY_VERSION[version]
        self._at = at
        self._answered = answered
        self._unsupported: dict[str, bool | int] = {}

    def after_reload(self) -> BrokerOptions:
        """Keep the version that the broker has accepted; try again what it did not support."""
        at = self._at if self._answered else 0
        return BrokerOptions(self._version, at, answered=self._answered)

    @property
    def options(self) -> ConnectOptions:
        """The options for the next CONNECT."""
        return msgspec.structs.replace(self._list[self._at], **self._unsupported)

    def learn(self, result: ConnectResult) -> bool:
        """Learn from a connection. Returns whether other options are to be tried at once."""
        before = self.options
        if result is ConnectResult.SILENCE and not self._answered:
            self._at = (self._at + 1) % len(self._list)
            return self._at >= SAME_AT_FIRST  # not after a pause: the cause may be gone by then
        if result is ConnectResult.NOT_SENT and not self._answered:
            self._at = 0  # the broker is down, so its silence says nothing about our options
            return False
        if result is ConnectResult.OTHER_VERSION:
            self._at = self._first_of_other_version(before)
            return before.mqtt_5 and not self.options.mqtt_5
        if result is ConnectResult.NO_RETAINED:
            self._unsupported["retain"] = False
        elif result is ConnectResult.NO_QOS:
            self._unsupported["qos"] = 0
        elif result is ConnectResult.NO_STATUS:
            self._unsupported["status"] = False
        elif result is ConnectResult.OTHER:
            self._answered = True
        return self.options != before

    def _first_of_other_version(self, options: ConnectOptions) -> int:
        others = (at for at, each in enumerate(self._list) if each.mqtt_5 is not options.mqtt_5)
        return next(others, self._at)
