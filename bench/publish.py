"""Publishes triggers by MQTT 3.1.1 at QoS 1, with little CPU time.

    python -m bench.publish PORT TOPIC COUNT RATE TIMES

The program connects, prints "ready", and waits for the end of its standard input. Then it publishes
COUNT triggers for flow 1, at RATE a second; with a RATE of 0, as fast as the broker takes them. It
waits for every PUBACK, and writes to the file TIMES when each trigger was sent (seconds since 1970,
as doubles).
"""

from __future__ import annotations

import select
import socket
import struct
import sys
import time
from array import array
from collections.abc import Iterator
from pathlib import Path

HOST = "127.0.0.1"
BATCH = 250
PUBACK_BYTES = 4
SLOT_S = 0.002


def body(number: int) -> bytes:
    """The message of the original's test, with a different payload for each trigger."""
    return b'{"id_flow": "1", "payload": "0x%012x"}' % number


def packet(kind: int, content: bytes) -> bytes:
    """A packet (MQTT 3.1.1, 2.2): a byte, the length in base 128, the content."""
    length, left = bytearray(), len(content)
    while left > 127:
        length.append(left % 128 | 128)
        left //= 128
    return bytes([kind, *length, left]) + content


def text(value: bytes) -> bytes:
    """A string (MQTT 3.1.1, 1.5.3)."""
    return struct.pack("!H", len(value)) + value


def connect(port: int) -> socket.socket:
    """Connect to the broker."""
    link = socket.create_connection((HOST, port))
    link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    link.sendall(packet(0x10, text(b"MQTT") + b"\x04\x02\x00\x00" + text(b"bench-load")))
    assert link.recv(4) == b"\x20\x02\x00\x00", "the broker refused"
    return link


def publish(link: socket.socket, topic: bytes, first: int, count: int) -> None:
    """Send triggers in one write. A packet id is used again after its acknowledgement."""
    packets = [
        packet(0x32, text(topic) + struct.pack("!H", number % 65535 + 1) + body(number))
        for number in range(first, first + count)
    ]
    link.sendall(b"".join(packets))


def batches(count: int, rate: float) -> Iterator[tuple[int, int]]:
    """Wait for the time of each batch; yields its first number and its size."""
    if not rate:
        for first in range(0, count, BATCH):
            yield first, min(BATCH, count - first)
        return
    began, sent = time.monotonic(), 0
    while sent < count:
        due = min(count, int((time.monotonic() - began) * rate) + 1)
        if due > sent:
            yield sent, due - sent
            sent = due
        time.sleep(SLOT_S)


def main(port: int, topic: bytes, count: int, rate: float, times: Path) -> None:
    """Publish all triggers, and write when each was sent."""
    link = connect(port)
    print("ready", flush=True)
    sys.stdin.read()
    sent = array("d")
    left = count * PUBACK_BYTES
    for first, size in batches(count, rate):
        sent.extend([time.time()] * size)
        publish(link, topic, first, size)
        # At most 60,000 are unacknowledged: packet ids have 16 bits.
        while left > (count - first - size + 60_000) * PUBACK_BYTES or readable(link):
            left -= receive_pubacks(link)
    while left:
        left -= receive_pubacks(link)
    link.sendall(packet(0xE0, b""))
    times.write_bytes(sent.tobytes())


def receive_pubacks(link: socket.socket) -> int:
    """Wait for PUBACKs; returns how many bytes were received."""
    return len(link.recv(65536)) or sys.exit("the broker has closed the connection")


def readable(link: socket.socket) -> bool:
    """Whether PUBACKs can be read."""
    return bool(select.select([link], [], [], 0)[0])


if __name__ == "__main__":
    words = sys.argv[1:]
    main(int(words[0]), words[1].encode(), int(words[2]), float(words[3]), Path(words[4]))
