"""One connection to the local socket: reads its request, and sends the answers."""

from __future__ import annotations

import asyncio
import pwd
import socket
import struct
from asyncio import FIRST_COMPLETED
from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress

import msgspec

from fractal_rm.adapters.local_socket.messages import (
    MAX_REQUEST_BYTES,
    AnyAnswer,
    AnyRequest,
    NotUnderstood,
    Refused,
    refused,
)
from fractal_rm.adapters.local_socket.requests import Requests
from fractal_rm.domain.actions import ActionRefused
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as
from fractal_rm.engine.ports import Telemetry

MAX_CONNECTIONS = 32
MAX_HELD_BYTES = 2 * MAX_REQUEST_BYTES  # of all requests that are being read or answered
READ_BYTES = 64 * 1024
REQUEST_LIMIT_S = 10.0  # for the whole request
SEND_LIMIT_S = 10.0  # for each answer: a client that does not read is disconnected
NAME_LIMIT_S = 2.0  # for the name of a user, which may come from another machine
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: process, user, group


class _TooLarge(Exception):
    """The request has too many bytes, or all requests together have."""


class _ClientGone(Exception):
    """The client has closed the connection, or does not read the answers."""


class Conversations:
    """All open connections, bounded in number and in the bytes of their requests."""

    def __init__(self, requests: Requests, telemetry: Telemetry) -> None:
        self.requests = requests
        self.telemetry = telemetry
        self.held_bytes = 0
        self._open: dict[asyncio.Task[None], Conversation] = {}

    def begin(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Serve a new connection.

        If there are too many, the oldest one that is not being answered is closed. So connections
        that send nothing do not keep commands out.
        """
        if len(self._open) >= MAX_CONNECTIONS:
            idle = next((task for task, each in self._open.items() if not each.is_answering), None)
            if idle is None:
                text = f"{MAX_CONNECTIONS} commands are being answered; repeat this one later"
                writer.write(_line(NotUnderstood(text)))
                writer.close()
                return
            self._open.pop(idle).abort()  # a task that was not begun cannot do this itself
            idle.cancel()
        conversation = Conversation(reader, writer, self)
        task = asyncio.ensure_future(conversation.run())
        self._open[task] = conversation
        task.add_done_callback(self._ended)

    async def end(self) -> None:
        """Complete the actions that have begun, and close all connections."""
        await self.requests.complete()
        if self._open:
            for task, conversation in self._open.items():
                conversation.abort()
                task.cancel()
            _ = await asyncio.wait(self._open)

    def _ended(self, task: asyncio.Task[None]) -> None:
        _ = self._open.pop(task, None)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.telemetry.problem("command_failed", error=repr(error), exc_info=error)


class Conversation:
    """One connection. `run` returns when it is closed."""

    def __init__(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, all_: Conversations
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._all = all_
        self._held_bytes = 0
        self.is_answering = False

    async def run(self) -> None:
        """Read the request, send the answers, and close the connection."""
        try:
            answers = await self._first_answers()
            if answers is not None:
                await self._send_all(answers)
        except (_ClientGone, OSError):
            pass  # there is nobody to tell
        except asyncio.CancelledError:
            self.abort()
            raise
        finally:
            self._all.held_bytes -= self._held_bytes
            self.is_answering = False
        await self._close()

    def abort(self) -> None:
        """Close the connection at once."""
        self._writer.transport.abort()

    async def _first_answers(self) -> AsyncGenerator[AnyAnswer, None] | None:
        """Read the request. Returns its answers, or None if it was refused or not sent."""
        try:
            line = await asyncio.wait_for(self._read_line(), REQUEST_LIMIT_S)
            if line is None:
                return None
            self.is_answering = True
            request = await asyncio.to_thread(_decode, line)
        except asyncio.TimeoutError:
            await self._send(NotUnderstood(f"no request within {REQUEST_LIMIT_S:.0f} s"))
        except _TooLarge:
            limit = f"{MAX_REQUEST_BYTES // 1024**2} MiB"
            await self._send(NotUnderstood(f"the request has too many bytes; {limit} are allowed"))
        except (Malformed, msgspec.ValidationError) as error:
            text = f"this process cannot read the request: {error}. Perhaps it runs another release"
            await self._send(NotUnderstood(text))
        else:
            return self._all.requests.answers(request, await self._actor(request))
        return None

    async def _read_line(self) -> bytes | None:
        """Read until the first line break. None: the connection was closed before."""
        line = bytearray()
        while True:
            piece = await self._reader.read(READ_BYTES)
            if not piece:
                return None
            self._held_bytes += len(piece)
            self._all.held_bytes += len(piece)
            end = piece.find(b"\n")
            line += piece if end < 0 else piece[:end]
            if len(line) > MAX_REQUEST_BYTES or self._all.held_bytes > MAX_HELD_BYTES:
                raise _TooLarge
            if end >= 0:
                return bytes(line)

    async def _actor(self, request: AnyRequest) -> str:
        """The operator who asks, for the journal."""
        if request.on_behalf_of:
            return _printable(request.on_behalf_of)
        connection: socket.socket = self._writer.get_extra_info("socket")
        content = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _, user_id, _ = _CREDENTIALS.unpack(content)
        try:
            name = await asyncio.wait_for(asyncio.to_thread(_user_name, user_id), NAME_LIMIT_S)
        except asyncio.TimeoutError:
            name = _unnamed(user_id)
        if user_id == 0 and request.sudo_user:
            return f"{name} (sudo of {_printable(request.sudo_user)})"
        return name

    async def _send_all(self, answers: AsyncGenerator[AnyAnswer, None]) -> None:
        """Send the answers. If the client closes the connection, stop as soon as possible."""
        gone = asyncio.ensure_future(self._until_closed())
        try:
            async with aclosing(answers):
                while True:
                    following = asyncio.ensure_future(_next(answers))
                    try:
                        ready = asyncio.wait({following, gone}, return_when=FIRST_COMPLETED)
                        _ = await ready
                    finally:
                        if not following.done():
                            following.cancel()  # an action that has begun is completed anyway
                            _ = await asyncio.wait({following})
                    answer = None if following.cancelled() else self._answer(following)
                    if answer is None:
                        return
                    await self._send(answer)
        finally:
            gone.cancel()

    def _answer(self, following: asyncio.Future[AnyAnswer | None]) -> AnyAnswer | None:
        """The next answer, also for an error. None: there is none."""
        error = following.exception()
        if error is None:
            return following.result()
        if isinstance(error, ActionRefused):
            return refused(error)
        if isinstance(error, FractalError):
            return Refused(error.code, error.reason)
        self._all.telemetry.problem("command_failed", error=repr(error), exc_info=error)
        return NotUnderstood(f"a fault in the Runtime Manager: {error!r}; its log has the details")

    async def _until_closed(self) -> None:
        """Return when the client has closed the connection. More input is ignored."""
        with suppress(OSError):
            while await self._reader.read(READ_BYTES):
                pass

    async def _send(self, answer: AnyAnswer) -> None:
        """Send one answer. Raises _ClientGone, OSError."""
        self._writer.write(_line(answer))
        try:
            await asyncio.wait_for(self._writer.drain(), SEND_LIMIT_S)
        except asyncio.TimeoutError:
            raise _ClientGone from None

    async def _close(self) -> None:
        self._writer.close()
        try:
            await asyncio.wait_for(self._writer.wait_closed(), SEND_LIMIT_S)
        except asyncio.TimeoutError:
            self._writer.transport.abort()
        except OSError:
            pass  # the client has closed the connection, too


def _line(answer: AnyAnswer) -> bytes:
    return msgspec.json.encode(answer) + b"\n"


def _decode(line: bytes) -> AnyRequest:
    """Decode a request. Raises Malformed, msgspec.ValidationError."""
    return read_json_as(line, AnyRequest)  # type: ignore[arg-type]


async def _next(answers: AsyncGenerator[AnyAnswer, None]) -> AnyAnswer | None:
    """The next answer; None: there is none."""
    return await anext(answers, None)


def _user_name(user_id: int) -> str:
    try:
        return pwd.getpwuid(user_id).pw_name
    except KeyError:
        return _unnamed(user_id)


def _unnamed(user_id: int) -> str:
    return f"user {user_id}"


def _printable(name: str) -> str:
    """A name that another program has sent, cut, and with its control characters escaped."""
    cut = name[:80]
    return cut if cut.isprintable() else ascii(cut)[1:-1]
