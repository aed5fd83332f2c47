"""Sends a request to the local socket of a process, and reads the answers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path
from typing import TypeVar

import msgspec

from fractal_rm.adapters.local_socket.messages import (
    Answer,
    AnyAnswer,
    AnyRequest,
    NotUnderstood,
    Refused,
    is_last,
    refusal_in,
)
from fractal_rm.adapters.local_socket.socket_file import connect
from fractal_rm.domain.actions import CannotActNow
from fractal_rm.domain.errors import FractalError

A = TypeVar("A", bound=Answer)
MAX_ANSWER_BYTES = 64 * 1024 * 1024  # the results of a run
CONNECT_LIMIT_S = 5.0
CONNECT_PAUSE_S = 0.02


class NoProcess(FractalError):
    """No process listens on the socket."""

    code = "not-running"


class NoAnswer(CannotActNow):
    """The process has not answered, or not completely. It may have done what was asked."""

    code = "no-answer"


class NotAnswered(CannotActNow):
    """The process has refused to read the request. It has done nothing."""

    code = "not-answered"


async def ask(path: Path, request: AnyRequest, kind: type[A], within_s: float) -> A:
    """Send a request that has one answer, of type ``kind``. Waits at most ``within_s`` for it.

    Raises ActionRefused, NoProcess, NoAnswer, NotAnswered.
    """
    async with aclosing(ask_all(path, request, within_s)) as answers:
        async for answer in answers:
            if isinstance(answer, kind):
                return answer
    raise _no_answer(path, "its answer is not known to this release")


async def ask_all(
    path: Path, request: AnyRequest, within_s: float
) -> AsyncGenerator[AnyAnswer, None]:
    """Send a request. Yields its answers; waits at most ``within_s`` for each of them.

    Raises ActionRefused, NoProcess, NoAnswer, NotAnswered. Closing the generator closes the
    connection, which stops an action on many runs.
    """
    reader, writer = await _connect(path)
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        while True:
            answer = await _read(path, reader, within_s)
            if isinstance(answer, Refused):
                raise refusal_in(answer)
            if isinstance(answer, NotUnderstood):
                raise NotAnswered(f"the process of {path} has done nothing: {answer.reason}")
            yield answer
            if is_last(answer):
                return
    finally:
        writer.transport.abort()


async def _connect(path: Path) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to a socket. Raises NoProcess, NoAnswer."""
    end_s = asyncio.get_running_loop().time() + CONNECT_LIMIT_S
    while True:
        try:
            connection = connect(path)
            return await asyncio.open_unix_connection(sock=connection, limit=MAX_ANSWER_BYTES)
        except BlockingIOError:
            if asyncio.get_running_loop().time() >= end_s:
                raise _no_answer(path, "too many commands connect to it") from None
        except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
            raise NoProcess(f"no process listens at {path}") from None
        except PermissionError as error:
            raise NoAnswer(
                f"{path}: {error.strerror}; run this command as the user of the node"
            ) from None
        except OSError as error:
            raise _no_answer(path, error.strerror or str(error)) from None
        await asyncio.sleep(CONNECT_PAUSE_S)


async def _read(path: Path, reader: asyncio.StreamReader, within_s: float) -> AnyAnswer:
    """Read one answer. Raises NoAnswer."""
    try:
        line = await asyncio.wait_for(reader.readline(), within_s)
        if not line.endswith(b"\n"):
            raise _no_answer(path, "it has ended, or has closed the connection")
        return msgspec.json.decode(line, type=AnyAnswer)  # type: ignore[arg-type]
    except asyncio.TimeoutError:
        raise _no_answer(path, f"it has not answered within {within_s:g} s") from None
    except (msgspec.DecodeError, ValueError) as error:
        raise _no_answer(path, str(error)) from None
    except OSError as error:
        raise _no_answer(path, error.strerror or str(error)) from None


def _no_answer(path: Path, why: str) -> NoAnswer:
    return NoAnswer(
        f"the process of {path} did not answer ({why}), so it is not known what it has done;"
        " the command can be repeated"
    )
