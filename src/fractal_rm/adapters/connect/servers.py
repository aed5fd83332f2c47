"""One question to the name servers of resolv.conf, until one of them answers it."""

from __future__ import annotations

import asyncio
import socket
from collections import deque

from fractal_rm.adapters.connect.files import Settings
from fractal_rm.adapters.connect.message import (
    CODES,
    NO_ERROR,
    NO_SUCH_NAME,
    Answer,
    question,
    read_answer,
)
from fractal_rm.adapters.connect.numeric import connected, numeric, why_no_socket
from fractal_rm.domain.none_left import none_left

PORT = 53
PAUSE_S = 0.5  # before the next server, or the same one again: an answer may still come
_LARGEST_DATAGRAM = 65_535


class ServersFailed(Exception):
    """None of the servers answers this question; the text says what each of them did."""


async def ask(settings: Settings, name: str, kind: int, number: int, port: int = PORT) -> Answer:
    """Ask all servers in turn, ``attempts`` times; the first one that knows the answer counts.

    ``number`` is the question's, of 16 bits, and drawn by chance (RFC 5452, 4.3). It waits as long
    as a server may still answer, so whoever calls bounds its time.

    Raises ServersFailed, OSError where no file descriptor is left.
    """
    asking = _Asking(question(number, name, kind), port)
    try:
        return await asking.ask(settings)
    finally:
        asking.close()


class _Asking:
    """One question on its way: a socket for each server that was asked."""

    def __init__(self, asked: bytes, port: int) -> None:
        self._asked = asked
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._sockets: dict[str, socket.socket] = {}
        self._by_tcp: dict[str, asyncio.Task[None]] = {}
        self._came: asyncio.Queue[tuple[str, Answer | OSError]] = asyncio.Queue()
        self._failed: dict[str, str] = {}

    async def ask(self, settings: Settings) -> Answer:
        left = deque(settings.servers * settings.attempts)
        while len(self._failed) < len(set(settings.servers)):
            if left:
                server = left.popleft()
                if server in self._failed:
                    continue
                if settings.by_tcp:
                    self._ask_by_tcp(server)
                else:
                    self._send(server)
            try:
                server, came = await asyncio.wait_for(self._came.get(), PAUSE_S if left else None)
            except asyncio.TimeoutError:
                continue
            if isinstance(came, OSError):
                if none_left(came):
                    raise came
                self._failed[server] = why_no_socket(server, came)
            elif came.truncated:
                self._ask_by_tcp(server)
            elif came.code in (NO_ERROR, NO_SUCH_NAME):
                return came
            else:
                self._failed[server] = CODES.get(came.code, f"code {came.code}")
        said = (f"DNS {server}: {why}" for server, why in self._failed.items())
        raise ServersFailed("; ".join(said))

    def _send(self, server: str) -> None:
        """Send it in a datagram."""
        try:
            opened = self._sockets.get(server) or self._socket_to(server)
            opened.send(self._asked)
        except BlockingIOError:
            pass  # as good as lost on its way
        except OSError as error:
            self._came.put_nowait((server, error))

    def _socket_to(self, server: str) -> socket.socket:
        """A socket that is connected, so that nobody else can answer. Raises OSError."""
        family, address = numeric(server, self._port)
        opened = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self._sockets[server] = opened
        opened.connect(address)
        self._loop.add_reader(opened.fileno(), self._read, server, opened)
        return opened

    def _read(self, server: str, opened: socket.socket) -> None:
        try:
            answer = read_answer(opened.recv(_LARGEST_DATAGRAM), self._asked)
        except BlockingIOError:
            return
        except OSError as error:  # an ICMP message came: nobody listens there
            self._came.put_nowait((server, error))
            return
        if answer is not None:
            self._came.put_nowait((server, answer))

    def _ask_by_tcp(self, server: str) -> None:
        """For what does not fit into a datagram (RFC 7766). No other server waits for this one."""
        if server not in self._by_tcp:
            self._by_tcp[server] = asyncio.create_task(self._exchange_by_tcp(server))

    async def _exchange_by_tcp(self, server: str) -> None:
        try:
            answer = await self._answer_by_tcp(server)
        except OSError as error:
            self._came.put_nowait((server, error))
        else:
            self._came.put_nowait((server, answer))

    async def _answer_by_tcp(self, server: str) -> Answer:
        opened = await connected(server, self._port)
        reader, writer = await asyncio.open_connection(sock=opened)
        try:
            writer.write(len(self._asked).to_bytes(2, "big") + self._asked)
            size = int.from_bytes(await reader.readexactly(2), "big")
            answer = read_answer(await reader.readexactly(size), self._asked)
        except (OSError, asyncio.IncompleteReadError):
            answer = None
        finally:
            writer.transport.abort()
        if answer is None or answer.truncated:
            raise OSError("no whole answer by TCP")
        return answer

    def close(self) -> None:
        for task in self._by_tcp.values():
            task.cancel()
        for opened in self._sockets.values():
            self._loop.remove_reader(opened.fileno())
            opened.close()
