"""The Load Balancer of the demo. It places each run on the node that asks, or on node 2."""

from __future__ import annotations

import asyncio
from itertools import cycle

# The chosen node for each request; None means the node that asks. The demo triggers each flow once
# by MQTT and once by REST. With these answers, each flow runs once on each node, and each node gets
# runs from both kinds of triggers.
ANSWERS = (None, "2", "2", None, None, "2")


class DemoBalancer:
    """Answers each request with the next value of ANSWERS."""

    def __init__(self) -> None:
        self._answers = cycle(ANSWERS)
        self._server: asyncio.Server | None = None
        self._writers: set[asyncio.StreamWriter] = set()

    async def start(self) -> int:
        """Listen on a free port; return the port."""
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        return self._server.sockets[0].getsockname()[1]

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            while True:
                await reader.readuntil(b"\r\n\r\n")
                node = next(self._answers)
                body = b'{"id_node": %b}' % (b"null" if node is None else b'"%b"' % node.encode())
                head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: %d\r\n\r\n"
                writer.write(head % len(body) + body)
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()
            self._writers.discard(writer)

    async def close(self) -> None:
        """Stop listening, and close all connections."""
        if self._server is not None:
            self._server.close()
        for writer in list(self._writers):
            writer.close()
        await asyncio.sleep(0)
