"""Serves the HTTP interface in the node's own event loop."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable, Mapping

from uvicorn import Config as UvicornConfig
from uvicorn.server import ServerState

from fractal_rm.adapters.rest.app import make_app
from fractal_rm.adapters.rest.protocol import GuardedProtocol
from fractal_rm.config.model import Rest
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import Check, History, Intake, Telemetry

KEEP_ALIVE_S = 75
BACKLOG = 1024
STOP_LIMIT_S = 5.0


class CannotListen(FractalError):
    """The address cannot be had; the text names the cure."""

    code = "cannot-listen"


class RestService:
    """Port `WayIn`. uvicorn's server would take the signals and the log; its protocol suffices."""

    def __init__(
        self,
        rest: Rest,
        intake: Intake,
        history: History,
        *,
        flows: Callable[[], Mapping[str, Flow]],
        max_trigger_bytes: Callable[[], int],
        telemetry: Telemetry,
    ) -> None:
        self._rest = rest
        self._telemetry = telemetry
        self._app = make_app(
            endpoint=rest.endpoint,
            host=rest.host,
            intake=intake,
            history=history,
            flows=flows,
            max_trigger_bytes=max_trigger_bytes,
            telemetry=telemetry,
        )
        self._state = ServerState()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        """Listen. Raises CannotListen."""
        config = UvicornConfig(
            self._app,
            http=GuardedProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        config.load()
        listener = _listener(self._rest.host, self._rest.port)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: GuardedProtocol(config, self._state, {}), sock=listener, backlog=BACKLOG
        )
        self._telemetry.event("rest_listening", url=f"http://{self._rest.host}:{self._rest.port}")

    async def stop(self) -> None:
        """Stop listening; requests in progress get their answers, within a bound."""
        server, self._server = self._server, None
        if server is None:
            return
        server.close()
        for connection in list(self._state.connections):
            connection.shutdown()
        if self._state.tasks:
            await asyncio.wait(self._state.tasks, timeout=STOP_LIMIT_S)
        for connection in list(self._state.connections):
            connection.transport.abort()

    def reconfigured(self) -> None:
        """Nothing to do: what is in force is looked up for each request."""

    def status(self) -> Check:
        """Whether requests can come in now."""
        url = f"http://{self._rest.host}:{self._rest.port}{self._rest.endpoint}"
        return Check("rest", ok=self._server is not None, text=url)


def _listener(host: str, port: int) -> socket.socket:
    try:
        return _listening(host, port)
    except OSError as error:
        reason = error.strerror or str(error)
        if error.errno == errno.EADDRINUSE:
            reason = "another program listens there; stop it, or set rest.port in comm.conf"
        raise CannotListen(f"cannot listen on {host}:{port}: {reason}") from error


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(BACKLOG)  # that the port is taken may come out only here
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener
