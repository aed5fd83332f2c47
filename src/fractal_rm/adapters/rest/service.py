"""Serves the HTTP interface in the node's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import cast

from uvicorn import Config as UvicornConfig
from uvicorn.server import ServerState

from fractal_rm.adapters.rest.access import Access
from fractal_rm.adapters.rest.app import make_app
from fractal_rm.adapters.rest.listening import (
    BACKLOG,
    NO_LISTENERS,
    CannotListen,
    Listeners,
    listen,
)
from fractal_rm.adapters.rest.peer_refusals import PeerRefusals
from fractal_rm.adapters.rest.protocol import GuardedProtocol
from fractal_rm.config.model import Rest
from fractal_rm.domain.call import Origin
from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import Check, Clock, History, Intake, Telemetry, WayIn

KEEP_ALIVE_S = 75
STOP_LIMIT_S = 5.0


class RestService:
    """Port `WayIn`. uvicorn's server would take the signals and the log; its protocol suffices."""

    takes_over = True

    def __init__(
        self,
        rest: Rest,
        intake: Intake,
        history: History,
        *,
        flows: Callable[[], Mapping[str, Flow]],
        names: Callable[[], Collection[str]],
        max_trigger_bytes: Callable[[], int],
        clock: Clock,
        telemetry: Telemetry,
    ) -> None:
        """``names``: what nodes.conf has for this node; see `Config.own_names`."""
        self._rest = rest
        self._url = str(Origin("http", rest.host, rest.port))
        self._telemetry = telemetry
        self._refusals = PeerRefusals(telemetry, clock.monotonic_s)
        self._access = Access(rest, names, self._refusals)
        self._app = make_app(
            endpoint=rest.endpoint,
            intake=intake,
            history=history,
            flows=flows,
            max_trigger_bytes=max_trigger_bytes,
            telemetry=telemetry,
        )
        self._config = UvicornConfig(
            self._app,
            http=GuardedProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()
        self.state = ServerState()
        self._servers: list[asyncio.Server] = []
        self.listeners = NO_LISTENERS

    async def start(self, before: WayIn | None = None) -> None:
        """Listen. Raises CannotListen; ``before`` then goes on.

        Requests whose head was read are finished as they were taken. Its connections go on, with
        what their clients may ask for now; those to an address that is left are then closed.
        """
        if not isinstance(before, RestService):
            await self.listen()
            return
        self.state = before.state
        if before.listeners.are_in_the_way(self._rest.host, self._rest.port):
            before.stop_listening()
            try:
                await self.listen()
            except CannotListen:
                await before.listen()
                raise
        else:
            await self.listen(before.listeners)
            before.stop_listening()
        self._take_connections()

    async def listen(self, held: Listeners = NO_LISTENERS) -> None:
        """Listen, sharing what is ``held`` already. Raises CannotListen."""
        loop = asyncio.get_running_loop()
        self.listeners = listen(self._rest.host, self._rest.port, held)
        for listener in self.listeners.by_host.values():
            self._servers.append(
                await loop.create_server(
                    lambda: GuardedProtocol(self._config, self.state, self._access),
                    sock=listener,
                    backlog=BACKLOG,
                )
            )
            at = listener.getsockname()
            self._telemetry.event("rest_listening", url=str(Origin("http", at[0], at[1])))

    def stop_listening(self) -> None:
        """Take no more connections."""
        self.listeners = NO_LISTENERS
        while self._servers:
            self._servers.pop().close()

    def _take_connections(self) -> None:
        for connection in cast("list[GuardedProtocol]", list(self.state.connections)):
            connection.serve_by(self._access, self._app)
            if connection.server is None or not self.listeners.reach(*connection.server):
                connection.shutdown()

    async def stop(self) -> None:
        """Stop listening; requests in progress get their answers, within a bound."""
        if not self._servers:
            return
        self.stop_listening()
        for connection in list(self.state.connections):
            connection.shutdown()
        if self.state.tasks:
            await asyncio.wait(self.state.tasks, timeout=STOP_LIMIT_S)
        for connection in list(self.state.connections):
            connection.transport.abort()

    def reconfigured(self) -> None:
        """Forget which names were this node's; all else is looked up for each request."""
        self._access.reconfigured()

    def status(self) -> Check:
        """Whether requests can come in now."""
        text = self._url + self._rest.endpoint
        if self._refusals.total:
            text += f", {self._refusals.total} requests of other machines were refused"
        return Check("rest", ok=bool(self._servers), text=text)
