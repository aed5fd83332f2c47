"""An HTTP server for tests that sends scripted bytes, and functions that call this server."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

from fractal_rm.adapters.http1 import Http1Caller
from fractal_rm.domain.call import Origin, route
from ports import free_port, port_of


class Server:
    """Answers each request with the next script. When no script is left, it answers OK.

    A script is a list. For each item, the server does one thing: bytes are sent, a float is a wait
    in seconds, None closes the connection, RESET resets the connection. DIE also resets it, and
    the server accepts no further connection.
    """

    def __init__(self):
        self.scripts = []
        self.requests = []
        self.connections = 0
        self.closed = asyncio.Event()
        self.stop_listening = lambda: None

    async def handle(self, reader, writer):
        self.connections += 1
        try:
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                length = 0
                for line in head.split(b"\r\n"):
                    if line.lower().startswith(b"content-length:"):
                        length = int(line.split(b":")[1])
                body = await reader.readexactly(length)
                self.requests.append(head + body)
                script = self.scripts.pop(0) if self.scripts else [OK]
                for part in script:
                    if part is None:
                        writer.close()
                        return
                    if part is DIE:
                        self.stop_listening()
                        writer.transport.abort()
                        return
                    if part is RESET:
                        writer.transport.abort()
                        return
                    if isinstance(part, float):
                        await asyncio.sleep(part)
                    else:
                        writer.write(part)
                        await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            writer.close()
            self.closed.set()


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
RESET, DIE = object(), object()
CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
HINTS = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n"


@asynccontextmanager
async def serving(*scripts, tls=None):
    """Run a server with these scripts, one for each request. Yields the server."""
    server = Server()
    server.scripts = list(scripts)
    listening = await asyncio.start_server(server.handle, "127.0.0.1", free_port(), ssl=tls)
    server.stop_listening = listening.close
    server.port = port_of(listening)
    try:
        yield server
    finally:
        listening.close()


@asynccontextmanager
async def calling(names=None):
    """Yield an `Http1Caller` with the resolver ``names``, and close it at the end of the block."""
    caller = Http1Caller(resolver=names)
    try:
        yield caller
    finally:
        await caller.close()
        await caller.close()  # a second close does nothing


def to(server, method="GET", *, protocol="http", host="127.0.0.1", tls=None, **limits):
    """The route of a call to the path /x of the server."""
    limits.setdefault("timeout_s", 30.0)
    return route(Origin(protocol, host, server.port, tls), method, "/x", **limits)


async def call_with_answer(*script, **limits):
    """Call a server that answers with this script. Returns the response of the caller."""
    async with serving(list(script)) as server, calling() as caller:
        return await caller.call(to(server, **limits))
