"""A PUBLISH packet (MQTT 5, 3.3) into a message: the hot path, so gmqtt's is not used here."""

from __future__ import annotations

import struct
from typing import Any

import msgspec
from gmqtt.mqtt.property import PROPERTIES_BY_ID  # pyright: ignore[reportMissingTypeStubs]

from fractal_rm.adapters.mqtt.packets import NotMqtt, Packet, read_length
from fractal_rm.domain.errors import Refused, TooLarge, WrongShape

PUBLISH = 0x30
_QOS, _RETAIN = 0x06, 0x01
_KEYS = ("idempotency-key", "id")


class Message(msgspec.Struct, frozen=True):
    """A message as it came. ``key`` is the trigger id among its user properties (MQTT 5).

    ``refusal``: it cannot become a run, which was seen while it was read.
    """

    body: bytes
    retained: bool
    key: str | None = None
    refusal: Refused | None = None


def read_publish(packet: Packet, *, mqtt_5: bool) -> tuple[int | None, Message]:
    """The packet id, which QoS 0 has not, and the message. Raises NotMqtt.

    Topics do not matter: there is one subscription, and topic aliases are not offered.
    """
    first, data, size = packet.first, packet.data, packet.size
    key, refusal, packet_id = None, None, None
    try:
        at = 2 + (data[0] << 8 | data[1])
        if first & _QOS:
            packet_id = data[at] << 8 | data[at + 1]
            at += 2
        if mqtt_5:
            if data[at]:
                length, start = read_length(data, at)
                at = start + length
                key, refusal = _key(data[start:at])
            else:
                at += 1
    except IndexError:
        raise NotMqtt("a PUBLISH packet that ends in its head") from None
    if at > size:
        raise NotMqtt("a PUBLISH packet that is shorter than its head")
    if size > len(data):
        refusal = TooLarge(f"{size - at} bytes, of which only the beginning was read")
    return packet_id, Message(data[at:], bool(first & _RETAIN), key, refusal)


def _key(data: bytes) -> tuple[str | None, Refused | None]:
    """The trigger id among properties, or why they cannot be read."""
    try:
        while data:
            kind: Any = PROPERTIES_BY_ID.get(data[0])
            if kind is None:
                return None, WrongShape(f"there is no MQTT property {data[0]}")
            found, data = kind.loads(data[1:])
            name, value = found.get("user_property", ("", ""))
            if name.lower() in _KEYS:
                return value, None
    except (ValueError, IndexError, struct.error) as error:
        return None, WrongShape(f"its MQTT properties cannot be read: {error}")
    return None, None
