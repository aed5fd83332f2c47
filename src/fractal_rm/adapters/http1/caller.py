"""Makes HTTP/1.1 calls over connections that stay open between calls.

Redirects are not followed, so that calls go only to the addresses in the configuration. Cookies are
ignored. If an answer is compressed although the request accepted no encoding, the answer is
decompressed.
"""

from __future__ import annotations

import asyncio
from functools import partial

from fractal_rm.adapters.connect import Connector, Resolver
from fractal_rm.adapters.connect.descriptors import DescriptorQueue
from fractal_rm.adapters.http1.coding import EncodedReply, encoded_reply
from fractal_rm.adapters.http1.connection import Connection
from fractal_rm.adapters.http1.pool import Pool
from fractal_rm.adapters.http1.stale import StaleConnection
from fractal_rm.adapters.tls import TlsContexts
from fractal_rm.domain.call import HttpResponse, Route
from fractal_rm.domain.call_errors import CallFailed, ConnectFailed

_WITH_BODY = b"%b%bContent-Length: %d\r\n\r\n%b"


class Http1Caller:
    """Makes HTTP/1.1 calls; the adapter of the port `HttpCaller`.

    Each call in flight has a connection of its own. The callers must limit the number of calls.
    ``max_idle``: how many idle connections may stay open.
    """

    def __init__(self, max_idle: int = 1_000, resolver: Resolver | None = None) -> None:
        self._pool = pool = Pool(max_idle)
        descriptors = DescriptorQueue(
            close_unneeded=pool.close_one, on_shortage=pool.set_short_of_descriptors
        )
        pool.on_freed = descriptors.note_freed
        self.connector = Connector(resolver, descriptors)
        self._tls = TlsContexts()
        # Stored at the first call, since get_running_loop makes a system call.
        self._loop: asyncio.AbstractEventLoop | None = None

    async def call(
        self,
        route: Route,
        body: bytes | None = None,
        headers: bytes = b"",
        timeout_s: float | None = None,
    ) -> HttpResponse:
        """Make a call; see `HttpCaller`."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        limit_s = route.timeout_s if timeout_s is None else min(timeout_s, route.timeout_s)
        ends_s = loop.time() + limit_s
        if body is None:
            request = b"%b%b\r\n" % (route.head, headers)
        else:
            request = _WITH_BODY % (route.head, headers, len(body), body)
        # A request that must not be repeated needs a new connection: if the server closes a used
        # connection, it is not known whether the server has read the request.
        connection = self._pool.take(route.origin) if route.repeatable else None
        return await self._send(connection, route, request, loop, ends_s)

    async def _send(
        self,
        connection: Connection | None,
        route: Route,
        request: bytes,
        loop: asyncio.AbstractEventLoop,
        ends_s: float,
    ) -> HttpResponse:
        """Send a request. ``connection`` was used before; None: use a new one."""
        if connection is None:
            connection = await self._connect(route, loop, ends_s)
        try:
            return await connection.send(request, loop, ends_s, route.max_response_bytes)
        except EncodedReply as encoded:
            return await encoded.decode(route.max_response_bytes, loop, ends_s)
        except asyncio.CancelledError:
            connection.cancel()
            raise
        except StaleConnection as caught:
            stale = caught
        reply = stale.answer_to(request)
        if reply is not None:
            encoded = encoded_reply(reply)
            if encoded is None:
                return reply
            return await encoded.decode(route.max_response_bytes, loop, ends_s)
        try:
            return await self._send(None, route, request, loop, ends_s)
        except CallFailed as error:
            error.sent = error.sent or stale.maybe_read
            raise

    @property
    def open_connections(self) -> int:
        """How many connections are open or being opened."""
        return self._pool.open_count

    @property
    def established_connections(self) -> int:
        """How many connections are open now."""
        return self._pool.established_count

    async def close(self) -> None:
        """Close every connection."""
        self.connector.close()
        self._pool.close()

    async def _connect(
        self, route: Route, loop: asyncio.AbstractEventLoop, ends_s: float
    ) -> Connection:
        origin = route.origin
        tls_context = partial(self._tls.context, origin.tls) if origin.protocol == "https" else None
        connection = self._pool.new_connection(origin, loop)
        try:
            await self.connector.connect(
                connection,
                origin.host,
                origin.port,
                tls=tls_context,
                server_name=None if origin.tls is None else origin.tls.server_name,
                limit_s=max(0.0, min(route.connect_timeout_s, ends_s - loop.time())),
                ends_s=ends_s,
            )
        except ConnectFailed as error:
            self._pool.forget(connection)
            raise ConnectFailed(f"{origin}: {error}") from error
        except BaseException:
            self._pool.forget(connection)
            raise
        return connection
