"""Serves the HTTP interface in the node's own event loop."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import cast

from uvicorn import Config as UvicornConfig

from fractal_rm.config.model import Rest
from fractal_rm.domain.call import Origin
from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import Check, Clock, History, Intake, Telemetry, WayIn
from fractal_rm.web.access import Access
from fractal_rm.web.app import make_app
from fractal_rm.web.listening import (
    BACKLOG,
    NO_LISTENERS,
    CannotListen,
    listen,
)
from fractal_rm.web.peer_refusals import PeerRefusals
from fractal_rm.web.protocol import GuardedProtocol, Served

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
        self._access = Access(rest, names, PeerRefusals(telemetry, clock.monotonic_s))
        app = make_app(
            endpoint=rest.endpoint,
            intake=intake,
            history=history,
            flows=flows,
            max_trigger_bytes=max_trigger_bytes,
            telemetry=telemetry,
        )
        self._config = UvicornConfig(
            app,
            http=GuardedProtocol,
            log_config=None,
            access_log=False,
            lifespan="off",
            proxy_headers=False,
            ws="none",
            timeout_keep_alive=KEEP_ALIVE_S,
        )
        self._config.load()
        self.served = Served(self._access, app)
        self.servers: dict[socket.socket, asyncio.Server] = {}
        self.listeners = NO_LISTENERS

    @property
    def refusals(self) -> PeerRefusals:
        """What other machines were refused since the node was started."""
        return self._access.refusals

    async def start(self, before: WayIn | None = None) -> None:
        """Listen. Raises CannotListen; ``before`` then goes on.

        An address that stays is listened on without a break. Requests whose head was read are
        finished as they were taken. Connections go on, with what their clients may ask for now;
        those to an address that is left are then closed. Refusals are counted on.
        """
        if not isinstance(before, RestService):
            await self.listen()
            return
        ours, self.served = self.served, before.served
        if before.listeners.are_in_the_way(self._rest.host, self._rest.port):
            before.stop_listening()
            try:
                await self.listen()
            except CannotListen:
                await before.listen()
                raise
        else:
            await self.listen(before)
            before.stop_listening()
        self._access.refusals = before.refusals
        self.served.access, self.served.app = ours.access, ours.app
        self._take_connections()

    async def listen(self, before: RestService | None = None) -> None:
        """Listen; what ``before`` listens on too is taken from it. Raises CannotListen."""
        held, servers = (before.listeners, before.servers) if before else (NO_LISTENERS, {})
        self.listeners = listen(self._rest.host, self._rest.port, held)
        for listener in self.listeners.by_host.values():
            self.servers[listener] = servers.pop(listener, None) or await self._serve(listener)

    async def _serve(self, listener: socket.socket) -> asyncio.Server:
        server = await asyncio.get_running_loop().create_server(
            partial(GuardedProtocol, self._config, self.served), sock=listener, backlog=BACKLOG
        )
        at = listener.getsockname()
        self._telemetry.event("rest_listening", url=str(Origin("http", at[0], at[1])))
        return server

    def stop_listening(self) -> None:
        """Take no more connections."""
        self.listeners = NO_LISTENERS
        while self.servers:
            self.servers.popitem()[1].close()

    def _connections(self) -> list[GuardedProtocol]:
        return cast("list[GuardedProtocol]", list(self.served.connections))

    def _take_connections(self) -> None:
        for connection in self._connections():
            connection.reconfigured()
            if connection.server is None or not self.listeners.reach(*connection.server):
                connection.shutdown()

    async def stop(self) -> None:
        """Stop listening; requests in progress get their answers, within a bound."""
        self.stop_listening()
        for connection in self._connections():
            connection.shutdown()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._answer_all(), STOP_LIMIT_S)
        for connection in self._connections():
            connection.transport.abort()

    async def _answer_all(self) -> None:
        """Return when all requests are answered, and their clients have the answers."""
        while self.served.tasks:
            await asyncio.wait(self.served.tasks)
        connections = self._connections()
        for connection in connections:
            connection.end()
        await asyncio.gather(*(connection.ended.wait() for connection in connections))

    def reconfigured(self) -> None:
        """Forget which names were this node's; all else is looked up for each request."""
        self._access.reconfigured()

    def status(self) -> Check:
        """Whether requests can come in now."""
        text = self._url + self._rest.endpoint
        if self.refusals.total:
            text += f", {self.refusals.total} requests of other machines were refused"
        return Check("rest", ok=bool(self.servers), text=text)
