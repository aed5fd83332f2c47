"""Serves the HTTP interface in the event loop of the node."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from functools import partial
from typing import cast

from uvicorn import Config as UvicornConfig

from fractal_rm.adapters.tls import ServerContext
from fractal_rm.config.model import Rest
from fractal_rm.domain.call import Origin
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.flow import Flow
from fractal_rm.engine.ports import (
    Authenticator,
    Clock,
    History,
    Intake,
    PairingHost,
    ReadinessCheck,
    Sessions,
    Telemetry,
    WayIn,
)
from fractal_rm.web.access import Access
from fractal_rm.web.api.metrics import GetMetrics
from fractal_rm.web.app import make_app
from fractal_rm.web.late_operator import LateOperator
from fractal_rm.web.listening import (
    BACKLOG,
    NO_LISTENERS,
    CannotListen,
    listen,
    protocol_at,
)
from fractal_rm.web.peer_refusals import PeerRefusals
from fractal_rm.web.protocol import GuardedProtocol, SharedState

KEEP_ALIVE_S = 75
STOP_LIMIT_S = 5.0
WARN_EVERY_S = 86_400.0


class RestService:
    """Port `WayIn`. Uses the HTTP protocol of uvicorn without its server.

    The server of uvicorn would install its own signal handlers.
    """

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
        authenticator: Authenticator,
        node_ids: Callable[[], Mapping[str, str]],
        store_draining: Callable[[bool], object],
        pairing: PairingHost | None = None,
        certificate_warnings: Callable[[], list[str]] = list,
        operator: LateOperator | None = None,
        metrics: GetMetrics | None = None,
        sessions: Sessions | None = None,
    ) -> None:
        """Set up the service. ``names`` returns the names of this node; see `Config.own_names`.

        ``store_draining`` writes to the disk whether the node drains. ``certificate_warnings``
        returns sentences about certificates that expire soon.
        """
        self._rest = rest
        self._url = str(Origin(rest.protocol, rest.host, rest.port))
        self._telemetry = telemetry
        self._tls: ServerContext | None = None  # made before listening
        self._certificate_warnings = certificate_warnings
        self._warning_timer: asyncio.TimerHandle | None = None
        self._access = Access(
            rest,
            names,
            PeerRefusals(telemetry, clock.monotonic_s),
            authenticator,
            node_ids,
            clock.monotonic_s,
            None if operator is None else sessions,
        )
        app = make_app(
            rest=rest,
            intake=intake,
            history=history,
            flows=flows,
            max_trigger_bytes=max_trigger_bytes,
            clock=clock,
            telemetry=telemetry,
            store_draining=store_draining,
            pairing=pairing,
            operator=operator,
            metrics=metrics,
            sessions=sessions,
        )
        self._operator = operator
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
        self.shared = SharedState(self._access, app)
        self.servers: dict[socket.socket, asyncio.Server] = {}
        self.listeners = NO_LISTENERS

    @property
    def refusals(self) -> PeerRefusals:
        """The counts of refused requests of other machines since the start of the node."""
        return self._access.refusals

    async def start(self, predecessor: WayIn | None = None) -> None:
        """Listen, and take over the sockets and connections of ``predecessor``.

        ``predecessor`` is the open service that this service replaces. Sockets whose address does
        not change stay open. The connections of an address that is no longer used are closed after
        their current response. Other connections continue: requests whose head was read before this
        call get the old configuration, later requests the new one. The count of refusals continues.

        Raises CannotListen. In this case, ``predecessor`` continues to listen.
        """
        if not isinstance(predecessor, RestService):
            await self.listen()
            return
        new_state, self.shared = self.shared, predecessor.shared
        if predecessor.must_close_for(self._rest):
            predecessor.stop_listening()
            try:
                await self.listen()
            except CannotListen:
                await predecessor.listen()
                raise
        else:
            await self.listen(predecessor)
            predecessor.stop_listening()
        self._access.refusals = predecessor.refusals
        if self._operator is not None:
            self._operator.end_streams()  # their connections may have to be closed
        self.shared.access, self.shared.app = new_state.access, new_state.app
        self._reconfigure_connections()

    def must_close_for(self, rest: Rest) -> bool:
        """Whether this service must stop listening before a service with ``rest`` can listen."""
        conflict = self.listeners.conflict_with(rest.host, rest.port)
        return conflict or (rest.tls != self._rest.tls and rest.port == self._rest.port)

    async def listen(self, predecessor: RestService | None = None) -> None:
        """Listen. Sockets of ``predecessor`` are reused where possible. Raises CannotListen."""
        self._tls = self._make_context()
        existing, servers = NO_LISTENERS, dict[socket.socket, asyncio.Server]()
        if predecessor is not None:
            existing, servers = predecessor.listeners, predecessor.servers
        self.listeners = listen(self._rest.host, self._rest.port, existing)
        for listener in self.listeners.by_host.values():
            self.servers[listener] = servers.pop(listener, None) or await self._serve(listener)
        self._warn_of_expiry()

    def _warn_of_expiry(self) -> None:
        """Log the tokens that expire soon, now and once a day."""
        for warning in self._access.authenticator.warnings():
            self._telemetry.problem("token_expires", why=warning)
        loop = asyncio.get_running_loop()
        self._warning_timer = loop.call_later(WARN_EVERY_S, self._warn_of_expiry)

    def _make_context(self) -> ServerContext | None:
        """The TLS context, from the files of ``rest.tls``. Raises CannotListen."""
        tls = self._rest.tls
        if tls is None:
            return None

        def report(reason: str) -> None:
            self._telemetry.problem("certificate_not_renewed", reason=reason)

        try:
            return ServerContext(tls, report)
        except (ConnectFailed, OSError) as error:
            raise CannotListen(f"rest.tls in comm.conf cannot be used: {error}") from error

    async def _serve(self, listener: socket.socket) -> asyncio.Server:
        host, port = listener.getsockname()[:2]
        protocol = protocol_at(self._rest, host)
        server = await asyncio.get_running_loop().create_server(
            partial(GuardedProtocol, self._config, self.shared),
            sock=listener,
            backlog=BACKLOG,
            ssl=self._tls if protocol == "https" else None,
            ssl_handshake_timeout=self.shared.limits.head_s if protocol == "https" else None,
        )
        self._telemetry.event("rest_listening", url=str(Origin(protocol, host, port)))
        return server

    def stop_listening(self) -> None:
        """Stop accepting connections."""
        if self._warning_timer is not None:
            self._warning_timer.cancel()
        self.listeners = NO_LISTENERS
        while self.servers:
            self.servers.popitem()[1].close()

    def _connections(self) -> list[GuardedProtocol]:
        return cast("list[GuardedProtocol]", list(self.shared.connections))

    def _reconfigure_connections(self) -> None:
        for connection in self._connections():
            connection.reconfigured()
            if not self._may_stay_open(connection):
                connection.shutdown()

    def _may_stay_open(self, connection: GuardedProtocol) -> bool:
        """Whether the node still listens where a connection was accepted, with this protocol."""
        if connection.server is None or not self.listeners.accept(*connection.server):
            return False
        return connection.scheme == protocol_at(self._rest, connection.server[0])

    async def stop(self) -> None:
        """Stop listening. Wait up to 5 s for requests in progress. Then close all connections."""
        self.stop_listening()
        for connection in self._connections():
            connection.shutdown()
        if self._operator is not None:
            await self._operator.stop()
        with suppress(asyncio.TimeoutError):
            await asyncio.wait_for(self._finish_requests(), STOP_LIMIT_S)
        for connection in self._connections():
            connection.transport.abort()

    async def _finish_requests(self) -> None:
        """Wait until all requests are answered and all responses are sent."""
        while self.shared.tasks:
            await asyncio.wait(self.shared.tasks)
        connections = self._connections()
        for connection in connections:
            connection.flush_and_close()
        await asyncio.gather(*(connection.ended.wait() for connection in connections))

    def reconfigured(self) -> None:
        """Clear the cached names of this node. No other part of the configuration is cached."""
        self._access.reconfigured()

    def status(self) -> ReadinessCheck:
        """Whether requests can be received now."""
        text = self._url + self._rest.endpoint
        if self.refusals.total:
            were = "request was" if self.refusals.total == 1 else "requests were"
            text += f", {self.refusals.total} {were} refused since the start"
            text += f" ({self.refusals.codes_text()})"
        expiring = [*self._access.authenticator.warnings(), *self._certificate_warnings()]
        text = "; ".join([text, *expiring])
        return ReadinessCheck("rest", ok=bool(self.servers), text=text)
