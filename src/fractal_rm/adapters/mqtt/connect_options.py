"""The options of a CONNECT packet: the MQTT version, and which optional features are used.

A broker that does not support MQTT 5 sends a CONNACK with a reason code (MQTT 5, 3.1.2.2), closes
the connection, or does not answer. The last two cases can have other causes, such as a proxy whose
broker is down. So other options are tried only after the second such failure in a row. They stay
in use if the broker accepts a CONNECT with them. After the broker has accepted a CONNECT of this
process, the last two cases do not change the options.
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
    """The MQTT version, and how to publish the status of this node.

    ``status``: whether this node publishes its status, in addition to the will. ``retain`` and
    ``qos`` apply to both the will and the published status.
    """

    mqtt_5: bool = True
    retain: bool = True
    qos: int = 1
    status: bool = True


class ConnectResult(Enum):
    """What a connection has shown about the options that the broker supports."""

    NOT_SENT = "not sent"  # the CONNECT packet was not sent
    SILENCE = "silence"  # no CONNACK came until the end of the connection or the time limit
    OTHER_VERSION = "other version"
    NO_RETAINED = "no retained messages"
    NO_QOS = "no QoS 1"
    NO_STATUS = "no status of this node"
    OTHER = "other"  # the broker supports the options, even if it refuses this client


_MQTT_5, _MQTT_3 = ConnectOptions(), ConnectOptions(mqtt_5=False)
# If an MQTT 3.1.1 broker does not support a retained will, or a will at QoS 1, the broker closes
# the connection without a reason.
_WITHOUT_FEATURES = (
    ConnectOptions(mqtt_5=False, retain=False),
    ConnectOptions(mqtt_5=False, retain=False, qos=0),
)
TRIES_OF_FIRST_OPTIONS = 2  # then other options are tried
_BY_VERSION = {  # by configured version: the options to try, in order
    None: (_MQTT_5, _MQTT_5, _MQTT_3, *_WITHOUT_FEATURES),
    "5": (_MQTT_5,),
    "3.1.1": (_MQTT_3, _MQTT_3, *_WITHOUT_FEATURES),
}


def connect_result(code: int | None, *, mqtt_5: bool) -> ConnectResult:
    """Return the result for the code in a CONNACK. The code is None if no CONNACK came."""
    if code is None:
        return ConnectResult.SILENCE
    if code == UNSUPPORTED_VERSION or (0 < code < REFUSED and (mqtt_5 or code == 1)):
        return ConnectResult.OTHER_VERSION  # codes below 0x80 are errors of MQTT 3.1.1
    return {NO_RETAINED: ConnectResult.NO_RETAINED, NO_QOS: ConnectResult.NO_QOS}.get(
        code, ConnectResult.OTHER
    )


class BrokerOptions:
    """The options for one broker, until the process ends.

    ``version`` is the configured MQTT version. ``answered``: the broker has answered a CONNECT, and
    supports its options.
    """

    def __init__(self, version: str | None, index: int = 0, *, answered: bool = False) -> None:
        self._version = version
        self._list = _BY_VERSION[version]
        self._index = index
        self._answered = answered
        self._unsupported: dict[str, bool | int] = {}

    def after_reload(self) -> BrokerOptions:
        """Return options that keep the accepted version and try refused features again."""
        index = self._index if self._answered else 0
        return BrokerOptions(self._version, index, answered=self._answered)

    @property
    def options(self) -> ConnectOptions:
        """The options for the next CONNECT."""
        return msgspec.structs.replace(self._list[self._index], **self._unsupported)

    def learn(self, result: ConnectResult) -> bool:
        """Choose the next options. Returns whether to try them at once, without a pause."""
        old_options = self.options
        if result is ConnectResult.SILENCE and not self._answered:
            self._index = (self._index + 1) % len(self._list)
            # During a pause, a broker that was down could recover, and accept options that lack
            # features which it supports. So there is no pause.
            return self._index >= TRIES_OF_FIRST_OPTIONS
        if result is ConnectResult.NOT_SENT and not self._answered:
            self._index = 0  # the broker is down; an earlier silence may have the same cause
            return False
        if result is ConnectResult.OTHER_VERSION:
            self._index = self._first_of_other_version(old_options)
            return old_options.mqtt_5 and not self.options.mqtt_5
        if result is ConnectResult.NO_RETAINED:
            self._unsupported["retain"] = False
        elif result is ConnectResult.NO_QOS:
            self._unsupported["qos"] = 0
        elif result is ConnectResult.NO_STATUS:
            self._unsupported["status"] = False
        elif result is ConnectResult.OTHER:
            self._answered = True
        return self.options != old_options

    def _first_of_other_version(self, options: ConnectOptions) -> int:
        indexes = (i for i, each in enumerate(self._list) if each.mqtt_5 is not options.mqtt_5)
        return next(indexes, self._index)
