"""A PUBLISH packet (MQTT 5, 3.3) into a message: the hot path, so gmqtt's is not used here."""

from __future__ import annotations

import struct

import msgspec

from fractal_rm.adapters.mqtt.packets import NotMqtt, Packet, read_length
from fractal_rm.adapters.mqtt.properties import read_properties
from fractal_rm.domain.refusals import Refused, TooLarge, WrongShape
from fractal_rm.domain.topic import has_wildcards, unshared
from fractal_rm.domain.trigger import Said

# Type and flags of what comes at QoS 0 and 1, retained or not, and at QoS 1 again (DUP).
PUBLISH = frozenset({0x30, 0x31, 0x32, 0x33, 0x3A, 0x3B})
_QOS, _RETAIN = 0x06, 0x01


# Every message makes one of these: it holds no cycle, so nobody need look for one in it.
class Message(msgspec.Struct, gc=False):
    """A message as it came. ``key`` is the trigger id among its user properties (MQTT 5).

    ``topic`` is None for that of triggers, if that is one. ``subscriptions`` are the identifiers of
    those that it came for, where the broker says so. ``refusal``: it cannot become a run, which was
    seen while it was read. While it waits for room, ``waited_ms`` grows, and ``begun`` holds the
    flows that it has started already while others found none.
    """

    body: bytes
    retained: bool
    key: str | None = None
    refusal: Refused | None = None
    topic: str | None = None
    said: Said | None = None
    subscriptions: tuple[int, ...] = ()
    waited_ms: int = 0
    begun: frozenset[str] = frozenset()


def own_field(topic_filter: str) -> bytes | tuple[()]:
    """With what every message on the topic of triggers begins; ``()``: there are several topics."""
    if has_wildcards(topic_filter):
        return ()
    encoded = unshared(topic_filter).encode()
    return struct.pack("!H", len(encoded)) + encoded


def read_publish(
    packet: Packet, *, mqtt_5: bool, own: bytes | tuple[()] = b""
) -> tuple[int | None, Message]:
    """The packet id, which QoS 0 has not, and the message. Raises NotMqtt.

    ``own`` is the `own_field` of triggers: a message that begins so has no ``topic`` then. Topic
    aliases are not offered.
    """
    first, data, size = packet.first, packet.data, packet.size
    key = said = subscriptions = topic = refusal = packet_id = None
    try:
        at = 2 + (data[0] << 8 | data[1])
        if not data.startswith(own):
            topic, refusal = _topic(data[2:at])
        if first & _QOS:
            packet_id = data[at] << 8 | data[at + 1]
            at += 2
        if mqtt_5:
            if data[at]:
                length, start = read_length(data, at)
                at = start + length
                try:
                    key, said, subscriptions = read_properties(data[start:at])
                except ValueError as error:
                    refusal = WrongShape(f"its MQTT properties cannot be read: {error}")
            else:
                at += 1
    except IndexError:
        raise NotMqtt("a PUBLISH packet that ends in its head") from None
    if at > size:
        raise NotMqtt("a PUBLISH packet that is shorter than its head")
    if size > len(data):
        refusal = TooLarge(f"{size - at} bytes, of which only the beginning was read")
    retained = bool(first & _RETAIN)
    if topic is None and said is None and not subscriptions:
        return packet_id, Message(data[at:], retained, key, refusal)
    return packet_id, Message(data[at:], retained, key, refusal, topic, said, subscriptions or ())


def _topic(data: bytes) -> tuple[str, Refused | None]:
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        return "", WrongShape("its topic is not UTF-8")
