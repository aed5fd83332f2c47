"""Calls over kept connections: as small as HTTP/1.1 allows, and complete.

No redirects, no cookies: a component is called at the address that the configuration gives. An
answer that is packed, though nobody asked for it, is unpacked.
"""

from __future__ import annotations

import asyncio
from functools import partial

from fractal_rm.adapters.connect import Connector, Names
from fractal_rm.adapters.connect.descriptors import Descriptors
from fractal_rm.adapters.connect.tls import TlsContexts
from fractal_rm.adapters.http1.coding import Packed, packed_in
from fractal_rm.adapters.http1.connection import Connection
from fractal_rm.adapters.http1.pool import Pool
from fractal_rm.adapters.http1.stale import Stale
from fractal_rm.domain.call import Reply, Route
from fractal_rm.domain.call_errors import ConnectFailed

_WITH_BODY = b"%b%bContent-Length: %d\r\n\r\n%b"


class Http1Caller:
    """Port `Caller`. Bounded by its callers: a connection is open for each call in flight.

    ``kept`` is how many more may stay open between calls.
    """

    def __init__(self, kept: int = 1_000, names: Names | None = None) -> None:
        self._pool = pool = Pool(kept)
        descriptors = Descriptors(spare=pool.close_one, on_short=pool.keep_none)
        pool.on_freed = descriptors.freed
        self.connector = Connector(names, descriptors)
        self._tls = TlsContexts()
        self._loop: asyncio.AbstractEventLoop | None = None  # asking for it is a system call

    async def call(
        self,
        route: Route,
        body: bytes | None = None,
        headers: bytes = b"",
        timeout_s: float | None = None,
    ) -> Reply:
        """Make one call; see the port."""
        loop = self._loop
        if loop is None:
            loop = self._loop = asyncio.get_running_loop()
        ends_s = loop.time() + (
            route.timeout_s if timeout_s is None else min(timeout_s, route.timeout_s)
        )
        if body is None:
            request = b"%b%b\r\n" % (route.head, headers)
        else:
            request = _WITH_BODY % (route.head, headers, len(body), body)
        # A request that must not be sent twice goes on a new connection: on a kept one nobody
        # could tell whether the server had read it before it closed.
        connection = self._pool.take(route.origin) if route.repeatable else None
        while True:
            if connection is None:
                connection = await self._connect(route, loop, ends_s)
            try:
                return await connection.ask(request, loop, ends_s, route.max_response_bytes)
            except Packed as packed:
                return await packed.unpacked(route.max_response_bytes, loop, ends_s)
            except Stale as stale:
                reply = stale.answer_to(request)
                if reply is not None:
                    packed = packed_in(reply)
                    if packed is None:
                        return reply
                    return await packed.unpacked(route.max_response_bytes, loop, ends_s)
                connection = None  # the server had let it go meanwhile: ask on a new one
            except asyncio.CancelledError:
                connection.give_up()
                raise

    async def close(self) -> None:
        """Close every connection."""
        self.connector.close()
        self._pool.close()

    async def _connect(
        self, route: Route, loop: asyncio.AbstractEventLoop, ends_s: float
    ) -> Connection:
        origin = route.origin
        secure = partial(self._tls.context, origin.tls) if origin.protocol == "https" else None
        connection = self._pool.new_connection(origin, loop)
        try:
            await self.connector.connect(
                connection,
                origin.host,
                origin.port,
                tls=secure,
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
