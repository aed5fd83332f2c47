"""A broker for tests, on a real socket. The test decides its answers, which may be invalid."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from contextlib import asynccontextmanager

from ports import free_port, port_of

# The first byte of each packet that is not a PUBLISH.
CONNECT, DISCONNECT = 0x10, 0xE0
SUBSCRIBE, SUBACK = 0x82, 0x90
UNSUBSCRIBE, UNSUBACK = 0xA2, 0xB0
PUBACK = 0x40
PUBLISH, QOS_BITS = 0x30, 0b0110
NOTHING, CLOSE = None, b""


def connack(
    code: int = 0, *, mqtt_5: bool = True, session: bool = False, properties: bytes = b""
) -> bytes:
    """A CONNACK packet. ``session`` is its session present flag, ``properties`` is for MQTT 5."""
    content = bytes([session, code]) + (bytes([len(properties)]) + properties if mqtt_5 else b"")
    return bytes([0x20, len(content)]) + content


def message(topic: str, body: bytes, packet_id: int, *, mqtt_5: bool = True, dup: bool = False):
    """A PUBLISH packet at QoS 1."""
    header = struct.pack("!H", len(topic)) + topic.encode() + struct.pack("!H", packet_id)
    content = header + (b"\0" if mqtt_5 else b"") + body
    return bytes([0x3A if dup else 0x32, len(content)]) + content


class ScriptedBroker:
    """A broker that accepts subscriptions and messages, unless the test changes its answers.

    ``on_connect`` gets the protocol level of a CONNECT (5, or 4 for MQTT 3.1.1). It returns the
    answer: bytes, CLOSE or NOTHING. The bytes ``after_suback`` are sent after each SUBACK. The
    function ``send`` sends bytes on the newest connection.

    ``connects`` has the protocol level of each CONNECT. ``received`` has the type and the content
    of each other packet. ``ended`` is the number of connections that have ended.
    """

    def __init__(
        self, on_connect: Callable[[int], bytes | None], after_suback: bytes = b""
    ) -> None:
        self.on_connect = on_connect
        self.after_suback = after_suback
        self.connects: list[int] = []
        self.received: list[tuple[int, bytes]] = []
        self.ended = 0
        self.port = 0
        self.send: Callable[[bytes], None] = lambda _: None

    async def before_close(self) -> None:
        """Called after a DISCONNECT, before the connection is closed. Tests override it."""

    @asynccontextmanager
    async def listening(self):
        """Listen on a free port."""
        server = await asyncio.start_server(self._serve, "127.0.0.1", free_port())
        self.port = port_of(server)
        try:
            yield self
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                await self._handle(*await _packet(reader), writer)
        except (asyncio.IncompleteReadError, ConnectionError):
            self.ended += 1
        finally:
            writer.close()

    async def _handle(self, first: int, data: bytes, writer: asyncio.StreamWriter) -> None:
        if first == CONNECT:
            version = data[6]
            self.connects.append(version)
            self.send = writer.write
            answer = self.on_connect(version)
            if answer == CLOSE:
                raise ConnectionError
            writer.write(answer or b"")
            return
        self.received.append((first, data))
        if first == DISCONNECT:
            await self.before_close()
            raise ConnectionError
        writer.write(self.answer(first, data))
        if first == SUBSCRIBE:
            writer.write(self.after_suback)

    def answer(self, first: int, data: bytes) -> bytes:
        """Return the answer to a packet: SUBACK, UNSUBACK, PUBACK or nothing. Tests replace it."""
        packet_id, mqtt_5 = data[:2], self.connects[-1] == 5
        if first == SUBSCRIBE:
            # The granted QoS is 1. In MQTT 5, the length of the properties (0) is before it.
            granted = b"\0\1" if mqtt_5 else b"\1"
            return bytes([SUBACK, 2 + len(granted)]) + packet_id + granted
        if first == UNSUBSCRIBE:
            done = b"\0\0" if mqtt_5 else b""
            return bytes([UNSUBACK, 2 + len(done)]) + packet_id + done
        if first & 0xF0 == PUBLISH and first & QOS_BITS:
            (topic_length,) = struct.unpack("!H", data[:2])
            id_at = 2 + topic_length
            return bytes([PUBACK, 2]) + data[id_at : id_at + 2]
        return b""


async def _packet(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    (first,) = await reader.readexactly(1)
    size = shift = 0
    while True:
        (byte,) = await reader.readexactly(1)
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return first, await reader.readexactly(size)


def answering(broker: ScriptedBroker, answer) -> ScriptedBroker:
    """Let a broker answer each packet with ``answer(type, content)``. Returns the broker.

    If ``answer`` returns None, the broker sends its usual answer.
    """
    usual = broker.answer

    def answer_or_usual(first: int, data: bytes) -> bytes:
        special = answer(first, data)
        return usual(first, data) if special is None else special

    broker.answer = answer_or_usual
    return broker
