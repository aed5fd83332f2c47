"""Reads a PUBLISH packet (MQTT 5, 3.3). gmqtt's own reader is not used, as it is too slow."""

from __future__ import annotations

import struct

import msgspec

from fractal_rm.adapters.mqtt.packets import NotMqtt, Packet, read_length
from fractal_rm.adapters.mqtt.properties import read_properties
from fractal_rm.domain.refusals import Refused, TooLarge, WrongShape
from fractal_rm.domain.topic import has_wildcards, unshared
from fractal_rm.domain.trigger import TriggerMetadata

# The possible first bytes of a PUBLISH: QoS 0 or 1, retained or not; with QoS 1, also DUP.
PUBLISH_FIRST_BYTES = frozenset({0x30, 0x31, 0x32, 0x33, 0x3A, 0x3B})
_QOS, _RETAIN = 0x06, 0x01


# Objects of this class have no reference cycles, so the garbage collector need not track them.
class Message(msgspec.Struct, gc=False):
    """A received message.

    ``key`` is the trigger id from the user properties (MQTT 5). ``topic`` is None if the message is
    on the trigger topic and that topic has no wildcards. ``subscriptions`` are the identifiers of
    the subscriptions that matched, if the broker sends them. ``refusal`` is set if the message
    cannot become a run. ``waited_ms`` is how long the message has waited for room. ``started`` are
    the flows that the message has started, if there was no room yet for its other flows.
    """

    body: bytes
    retained: bool
    key: str | None = None
    refusal: Refused | None = None
    topic: str | None = None
    metadata: TriggerMetadata | None = None
    subscriptions: tuple[int, ...] = ()
    waited_ms: int = 0
    started: frozenset[str] = frozenset()


def topic_field(topic_filter: str) -> bytes | tuple[()]:
    """The topic as encoded in a PUBLISH; ``()`` if the filter matches several topics."""
    if has_wildcards(topic_filter):
        return ()
    encoded = unshared(topic_filter).encode()
    return struct.pack("!H", len(encoded)) + encoded


def read_publish(
    packet: Packet, *, mqtt_5: bool, trigger_field: bytes | tuple[()] = b""
) -> tuple[int | None, Message]:
    """Return the packet id (None at QoS 0) and the message. Raises NotMqtt.

    ``trigger_field`` is the `topic_field` of the trigger topic. If the packet begins with it, the
    message's ``topic`` is None. There are no topic aliases: our CONNECT does not allow them.
    """
    first, data, size = packet.first_byte, packet.data, packet.size
    key = metadata = subscriptions = topic = refusal = packet_id = None
    try:
        at = 2 + (data[0] << 8 | data[1])
        if not data.startswith(trigger_field):
            topic, refusal = _topic(data[2:at])
        if first & _QOS:
            packet_id = data[at] << 8 | data[at + 1]
            at += 2
        if mqtt_5:
            if data[at]:
                length, start = read_length(data, at)
                at = start + length
                try:
                    key, metadata, subscriptions = read_properties(data[start:at])
                except ValueError as error:
                    refusal = WrongShape(f"its MQTT properties cannot be read: {error}")
            else:
                at += 1
    except IndexError:
        raise NotMqtt("a PUBLISH packet that is shorter than its header") from None
    if at > size:
        raise NotMqtt("a PUBLISH packet that is shorter than its header")
    if size > len(data):
        refusal = TooLarge(f"the body has {size - at} bytes; only the beginning was read")
    retained = bool(first & _RETAIN)
    if topic is None and metadata is None and not subscriptions:
        return packet_id, Message(data[at:], retained, key, refusal)
    return packet_id, Message(
        data[at:], retained, key, refusal, topic, metadata, subscriptions or ()
    )


def _topic(data: bytes) -> tuple[str, Refused | None]:
    try:
        return data.decode("utf-8"), None
    except UnicodeDecodeError:
        return "", WrongShape("its topic is not UTF-8")
