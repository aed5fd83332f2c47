"""Publishes triggers by MQTT 3.1.1 at QoS 1, with little CPU time.

    python -m bench.publish PORT TOPIC COUNT RATE TIMES

The program connects, prints "ready", and waits for the end of its standard input. Then it publishes
COUNT triggers for flow 1, RATE triggers a second. If RATE is 0, it publishes as fast as the broker
reads. It waits for every PUBACK. Then it writes the file TIMES. For each trigger, the file contains
the time at which the trigger was sent: a double, in seconds since 1970.
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
BATCH = 250  # how many triggers are sent in one write at full speed
CONNECT, PUBLISH_QOS_1, DISCONNECT = 0x10, 0x32, 0xE0
PUBACK_BYTES = 4
PAUSE_S = 0.002  # between two batches at a limited rate
MAX_UNACKNOWLEDGED = 60_000  # less than 65,535, because packet ids have 16 bits


def body(number: int) -> bytes:
    """The message of a trigger, in the format of the original's test. The payload is ``number``."""
    return b'{"id_flow": "1", "payload": "0x%012x"}' % number


def packet(kind: int, content: bytes) -> bytes:
    """An MQTT packet (MQTT 3.1.1, 2.2): the byte ``kind``, the length in base 128, the content."""
    length, remaining = bytearray(), len(content)
    while remaining > 127:
        length.append(remaining % 128 | 128)
        remaining //= 128
    return bytes([kind, *length, remaining]) + content


def text(value: bytes) -> bytes:
    """Encode a string (MQTT 3.1.1, 1.5.3): two bytes with its length, then its bytes."""
    return struct.pack("!H", len(value)) + value


def connect(port: int) -> socket.socket:
    """Connect to the broker. Returns the socket."""
    connection = socket.create_connection((HOST, port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    # MQTT 3.1.1, a clean session, no keepalive.
    connection.sendall(packet(CONNECT, text(b"MQTT") + b"\x04\x02\x00\x00" + text(b"bench-load")))
    assert connection.recv(4) == b"\x20\x02\x00\x00", "the broker refused the connection"
    return connection


def publish(connection: socket.socket, topic: bytes, first: int, count: int) -> None:
    """Send ``count`` triggers in one write. ``first`` is the number of the first trigger.

    After packet id 65,535, packet ids start again at 1. The caller must wait until the earlier
    message with the same packet id is acknowledged.
    """
    packets = [
        packet(PUBLISH_QOS_1, text(topic) + struct.pack("!H", number % 65535 + 1) + body(number))
        for number in range(first, first + count)
    ]
    connection.sendall(b"".join(packets))


def batches(count: int, rate: float) -> Iterator[tuple[int, int]]:
    """Yield each batch when it is due, as the number of its first trigger and its size.

    If the rate is 0, each batch is due at once.
    """
    if not rate:
        for first in range(0, count, BATCH):
            yield first, min(BATCH, count - first)
        return
    start_s, next_number = time.monotonic(), 0
    while next_number < count:
        due_count = min(count, int((time.monotonic() - start_s) * rate) + 1)
        if due_count > next_number:
            yield next_number, due_count - next_number
            next_number = due_count
        time.sleep(PAUSE_S)


def main(port: int, topic: bytes, count: int, rate: float, times_file: Path) -> None:
    """Publish all triggers, and write the file with the time of each."""
    connection = connect(port)
    print("ready", flush=True)
    sys.stdin.read()
    sent_at = array("d")
    missing_bytes = count * PUBACK_BYTES  # of PUBACKs that were not received yet
    for first, size in batches(count, rate):
        sent_at.extend([time.time()] * size)
        publish(connection, topic, first, size)
        unsent = count - first - size
        max_missing_bytes = (unsent + MAX_UNACKNOWLEDGED) * PUBACK_BYTES
        while missing_bytes > max_missing_bytes or is_readable(connection):
            missing_bytes -= receive_pubacks(connection)
    while missing_bytes:
        missing_bytes -= receive_pubacks(connection)
    connection.sendall(packet(DISCONNECT, b""))
    times_file.write_bytes(sent_at.tobytes())


def receive_pubacks(connection: socket.socket) -> int:
    """Wait for PUBACKs. Returns the number of bytes received."""
    return len(connection.recv(65536)) or sys.exit("the broker has closed the connection")


def is_readable(connection: socket.socket) -> bool:
    """Whether PUBACKs can be read without waiting."""
    return bool(select.select([connection], [], [], 0)[0])


if __name__ == "__main__":
    _, port_text, topic_text, count_text, rate_text, times_text = sys.argv
    main(int(port_text), topic_text.encode(), int(count_text), float(rate_text), Path(times_text))
