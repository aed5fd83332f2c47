"""Sends a question to the name servers of resolv.conf until one of them answers."""

from __future__ import annotations

import asyncio
import socket
from collections import deque

from fractal_rm.adapters.connect.dns_message import (
    CODES,
    NO_ERROR,
    NO_SUCH_NAME,
    DnsAnswer,
    question,
    read_answer,
)
from fractal_rm.adapters.connect.numeric_address import (
    connect_socket,
    describe_socket_error,
    socket_address,
)
from fractal_rm.adapters.connect.resolver_files import ResolverSettings
from fractal_rm.domain.descriptors import is_out_of_descriptors

PORT = 53
PAUSE_S = 0.5  # how long to wait for an answer before the next server is asked
_MAX_DATAGRAM_BYTES = 65_535


class ServersFailed(Exception):
    """All servers failed; the text has the reason for each server."""


async def ask(
    settings: ResolverSettings, name: str, kind: int, message_id: int, port: int = PORT
) -> DnsAnswer:
    """Ask all servers in turn, ``attempts`` times, and return the first answer.

    ``message_id`` has 16 random bits (RFC 5452, 4.3). There is no time limit: the function waits
    as long as a server may still answer.

    Raises ServersFailed; OSError if no file descriptor is free.
    """
    query = _Query(question(message_id, name, kind), port)
    try:
        return await query.ask(settings)
    finally:
        query.close()


class _Query:
    """A question to several servers, with a socket for each of them."""

    def __init__(self, message: bytes, port: int) -> None:
        self._message = message
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[str, socket.socket] = {}
        self._by_tcp: dict[str, asyncio.Task[None]] = {}
        self._received: asyncio.Queue[tuple[str, DnsAnswer | OSError]] = asyncio.Queue()
        self._failed: dict[str, str] = {}  # server -> reason

    async def ask(self, settings: ResolverSettings) -> DnsAnswer:
        next_servers = deque(settings.servers * settings.attempts)
        while len(self._failed) < len(set(settings.servers)):
            if next_servers:
                server = next_servers.popleft()
                if server in self._failed:
                    continue
                if settings.by_tcp:
                    self._ask_by_tcp(server)
                else:
                    self._send(server)
            try:
                received = self._received.get()
                limit_s = PAUSE_S if next_servers else None
                server, result = await asyncio.wait_for(received, limit_s)
            except asyncio.TimeoutError:
                continue
            if isinstance(result, OSError):
                if is_out_of_descriptors(result):
                    raise result
                self._failed[server] = describe_socket_error(server, result)
            elif result.truncated:
                self._ask_by_tcp(server)
            elif result.code in (NO_ERROR, NO_SUCH_NAME):
                return result
            else:
                self._failed[server] = CODES.get(result.code, f"code {result.code}")
        reasons = (f"DNS {server}: {reason}" for server, reason in self._failed.items())
        raise ServersFailed("; ".join(reasons))

    def _send(self, server: str) -> None:
        """Send the question in a datagram."""
        try:
            sock = self._sockets.get(server) or self._socket_to(server)
            sock.send(self._message)
        except BlockingIOError:
            pass  # as if the datagram were lost
        except OSError as error:
            self._received.put_nowait((server, error))

    def _socket_to(self, server: str) -> socket.socket:
        """Open a socket that receives datagrams of this server only. Raises OSError."""
        family, address = socket_address(server, self._port)
        sock = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sockets[server] = sock
        sock.connect(address)
        self._loop.add_reader(sock.fileno(), self._read, server, sock)
        return sock

    def _read(self, server: str, sock: socket.socket) -> None:
        try:
            answer = read_answer(sock.recv(_MAX_DATAGRAM_BYTES), self._message)
        except BlockingIOError:
            return
        except OSError as error:  # from an ICMP message: no server listens at this address
            self._received.put_nowait((server, error))
            return
        if answer is not None:
            self._received.put_nowait((server, answer))

    def _ask_by_tcp(self, server: str) -> None:
        """Send the question by TCP, for an answer that is too large for a datagram (RFC 7766)."""
        if server not in self._by_tcp:
            self._by_tcp[server] = asyncio.create_task(self._exchange_by_tcp(server))

    async def _exchange_by_tcp(self, server: str) -> None:
        try:
            answer = await self._answer_by_tcp(server)
        except OSError as error:
            self._received.put_nowait((server, error))
        else:
            self._received.put_nowait((server, answer))

    async def _answer_by_tcp(self, server: str) -> DnsAnswer:
        sock = await connect_socket(server, self._port)
        reader, writer = await asyncio.open_connection(sock=sock)
        try:
            writer.write(len(self._message).to_bytes(2, "big") + self._message)
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = read_answer(await reader.readexactly(size), self._message)
        except (OSError, asyncio.IncompleteReadError):
            answer = None
        finally:
            writer.transport.abort()
        if answer is None or answer.truncated:
            raise OSError("no complete answer by TCP")
        return answer

    def close(self) -> None:
        for task in self._by_tcp.values():
            task.cancel()
        for sock in self._sockets.values():
            self._loop.remove_reader(sock.fileno())
            sock.close()
