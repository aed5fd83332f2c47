"""Listens on the local socket of a process. It is a way in: for commands, not for triggers."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fractal_rm.adapters.local_socket.socket_file import NotASocket, listen
from fractal_rm.domain.late_import import late_import
from fractal_rm.engine.ports import ReadinessCheck, Telemetry, WayIn

if TYPE_CHECKING:
    from fractal_rm.adapters.local_socket.conversation import Conversations
    from fractal_rm.adapters.local_socket.requests import Requests

CHECK_S = 5.0  # the pause between two checks of the file


class LocalSocket:
    """Port `WayIn`. If the socket cannot be opened, the node runs without it, and tries again.

    ``make_requests`` is called at the first connection. Most nodes are never asked anything, and do
    not import the modules that answer.
    """

    takes_over = False

    def __init__(
        self, path: Path, make_requests: Callable[[], Requests], telemetry: Telemetry
    ) -> None:
        self._path = path
        self._make_requests = make_requests
        self._telemetry = telemetry
        self._server: asyncio.AbstractServer | None = None
        self._file = (0, 0)  # device and inode of the file
        self._conversations: Conversations | None = None
        self._watch: asyncio.Task[None] | None = None
        self._problem = ""

    async def start(self, predecessor: WayIn | None = None) -> None:  # noqa: ARG002 - the port
        """Listen, and listen again whenever the file is missing."""
        await self._open()
        self._watch = asyncio.create_task(self._keep_open())

    async def stop(self) -> None:
        """Delete the file, complete the actions that have begun, and close all connections."""
        watch, self._watch = self._watch, None
        if watch is not None:
            watch.cancel()
        if self._server is not None and self._is_ours():
            with suppress(OSError):
                self._path.unlink()
        self._close()
        if self._conversations is not None:
            await self._conversations.end()

    def kill(self) -> None:
        """Close the socket as if the process was killed: the file stays."""
        if self._watch is not None:
            self._watch.cancel()
        self._close()

    def reconfigured(self) -> None:
        """Do nothing: no key of the configuration concerns the socket."""

    def status(self) -> ReadinessCheck:
        """Whether commands can reach this process. This check is for information."""
        return ReadinessCheck("commands", ok=True, text=self._problem or f"at {self._path}")

    async def _keep_open(self) -> None:
        while True:
            await asyncio.sleep(CHECK_S)
            if self._server is None or not self._is_ours():
                self._close()
                await self._open()

    async def _open(self) -> None:
        try:
            listener = listen(self._path)
            status = self._path.lstat()
        except OSError as error:
            why = str(error) if isinstance(error, NotASocket) else error.strerror or str(error)
            self._report(f"there is no socket at {self._path}: {why}")
            return
        self._file = status.st_dev, status.st_ino
        self._server = await asyncio.start_unix_server(self._accept, sock=listener)
        self._problem = ""

    def _report(self, problem: str) -> None:
        """Log why there is no socket, once until the reason changes."""
        if problem != self._problem:
            self._problem = problem
            self._telemetry.problem(
                "commands_not_received", why=problem, note="the node runs, and tries again"
            )

    def _is_ours(self) -> bool:
        try:
            status = self._path.lstat()
        except OSError:
            return False
        return (status.st_dev, status.st_ino) == self._file

    def _close(self) -> None:
        server, self._server = self._server, None
        if server is not None:
            server.close()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if (conversations := self._conversations) is None:
            module: Any = late_import("fractal_rm.adapters.local_socket.conversation")
            conversations = module.Conversations(self._make_requests(), self._telemetry)
            self._conversations = conversations
        conversations.begin(reader, writer)
