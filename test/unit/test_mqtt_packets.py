"""MQTT packets encoded by gmqtt are read correctly, in pieces of any size."""

from __future__ import annotations

import struct
from types import SimpleNamespace

import gmqtt
import pytest
from gmqtt.mqtt.package import PublishPacket
from gmqtt.mqtt.utils import pack_variable_byte_integer
from hypothesis import given
from hypothesis import strategies as st

from fractal_rm.adapters.mqtt.packets import BEGINNING_BYTES, NotMqtt, Packets
from fractal_rm.adapters.mqtt.publish_packet import read_publish

texts = st.text(st.characters(codec="utf-8"), max_size=30)
properties = st.fixed_dictionaries(
    {},
    optional={
        "payload_format_id": st.integers(0, 1),
        "message_expiry_interval": st.integers(0, 2**32 - 1),
        "content_type": texts,
        "correlation_data": st.binary(max_size=200),
        "user_property": st.lists(st.tuples(texts, texts), min_size=1, max_size=3),
    },
)
messages = st.builds(
    gmqtt.Message,
    topic=texts.map(lambda text: ("t/" + text).encode()),  # gmqtt counts characters, not bytes
    payload=st.binary(max_size=300),
    qos=st.integers(0, 1),
    retain=st.booleans(),
    properties_=properties,
)


def encoded(message, *, mqtt_5: bool, packet_id: int = 7) -> bytes:
    """A message as a PUBLISH packet of gmqtt."""
    message.properties.update(message.properties.pop("properties_", {}))
    protocol = SimpleNamespace(
        proto_ver=5 if mqtt_5 else 4, id_generator=SimpleNamespace(next_id=lambda: packet_id)
    )
    _, packet = PublishPacket.build_package(message, protocol)
    return bytes(packet)


def read_packets(pieces, *, max_bytes: int = 1_000_000):
    reader, packets = Packets(lambda: max_bytes), []
    for piece in pieces:
        reader.feed(piece)
        while (packet := reader.take()) is not None:
            packets.append(packet)
    return packets


def publish_packet(content: bytes, first: int = 0x32) -> bytes:
    return bytes([first]) + bytes(pack_variable_byte_integer(len(content))) + content


@given(messages, st.booleans(), st.integers(1, 0xFFFF))
def test_a_message_is_read_as_it_was_encoded(message, mqtt_5, packet_id):
    (packet,) = read_packets([encoded(message, mqtt_5=mqtt_5, packet_id=packet_id)])
    found_id, arrival = read_publish(packet, mqtt_5=mqtt_5)
    assert found_id == (packet_id if message.qos else None)
    assert (arrival.body, arrival.retained) == (message.payload, message.retain)
    assert arrival.refusal is None


@given(st.lists(messages, max_size=5), st.data())
def test_the_size_of_the_pieces_does_not_change_the_packets(messages, data):
    stream = b"".join(encoded(message, mqtt_5=True) for message in messages)
    ends = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    pieces = [
        stream[start:end] for start, end in zip([0, *ends], [*ends, len(stream)], strict=True)
    ]
    found = [read_publish(packet, mqtt_5=True) for packet in read_packets(pieces)]
    assert [arrival.body for _, arrival in found] == [message.payload for message in messages]


@pytest.mark.parametrize(
    ("user_property", "key"),
    [
        (("Idempotency-Key", "k"), "k"),
        (("ID", "j"), "j"),
        (("other", "x"), None),
        ([("other", "x" * 200), ("id", "j")], "j"),
    ],
)
def test_the_trigger_id_is_found_among_the_properties(user_property, key):
    message = gmqtt.Message("t", b"1", qos=1, content_type="a", user_property=user_property)
    (packet,) = read_packets([encoded(message, mqtt_5=True)])
    packet_id, arrival = read_publish(packet, mqtt_5=True)
    assert (packet_id, arrival.body, arrival.key) == (7, b"1", key)


@pytest.mark.parametrize("piece", [1_000, 70_000, 10_000_000])
def test_a_too_large_packet_is_skipped_and_the_next_packet_is_complete(piece):
    large = gmqtt.Message("t", b"begin" + b"x" * 2_000_000, qos=1)
    small = gmqtt.Message("t", b"small", qos=1)
    stream = encoded(large, mqtt_5=True) + encoded(small, mqtt_5=True)
    pieces = [stream[at : at + piece] for at in range(0, len(stream), piece)]
    packets = read_packets(pieces, max_bytes=500_000)
    if piece < len(stream):  # otherwise the large packet came in one piece, and is complete
        assert len(packets[0].data) == BEGINNING_BYTES
        packet_id, arrival = read_publish(packets[0], mqtt_5=True)
        assert (packet_id, arrival.refusal.code, arrival.body[:5]) == (7, "too-large", b"begin")
        assert "2000005 bytes" in arrival.refusal.reason
    _, arrival = read_publish(packets[1], mqtt_5=True)
    assert arrival.body == b"small"


def test_a_too_large_packet_is_returned_only_when_its_end_was_received():
    stream = encoded(gmqtt.Message("t", b"x" * 2_000_000, qos=1), mqtt_5=True)
    assert read_packets([stream[:-1]], max_bytes=500_000) == []


@pytest.mark.parametrize(
    "block",
    [b"\x01\xfe", b"\x02\x26\x00", b"\x07\x26\x00\x01\xff\x00\x01v", b"\x03\x02\x00\x00"],
    ids=["unknown", "cut short", "no UTF-8", "a short number"],
)
def test_a_message_with_unreadable_properties_is_refused(block):
    (packet,) = read_packets([publish_packet(b"\x00\x01t\x00\x07" + block + b"body")])
    packet_id, message = read_publish(packet, mqtt_5=True)
    assert (packet_id, message.body, message.refusal.code) == (7, b"body", "wrong-shape")


@pytest.mark.parametrize(
    "content", [b"", b"\x00", b"\x00\x09t", b"\x00\x01t\x00", b"\x00\x01t\x00\x07\x09"]
)
def test_a_packet_shorter_than_its_header_is_not_mqtt(content):
    (packet,) = read_packets([publish_packet(content)])
    with pytest.raises(NotMqtt):
        read_publish(packet, mqtt_5=True)


def test_a_packet_of_qos_0_that_ends_within_its_topic_is_not_mqtt():
    (packet,) = read_packets([publish_packet(struct.pack("!H", 9) + b"t", first=0x30)])
    with pytest.raises(NotMqtt):
        read_publish(packet, mqtt_5=False)


def test_a_length_of_more_than_four_bytes_is_not_mqtt():
    with pytest.raises(NotMqtt):
        read_packets([b"\x32\xff\xff\xff\xff\x01"])
