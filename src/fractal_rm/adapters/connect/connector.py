"""TCP connections, with or without TLS, to a host given by name or by address."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fractal_rm.adapters.connect.descriptors import DescriptorQueue
from fractal_rm.adapters.connect.numeric_address import connect_socket, describe_socket_error
from fractal_rm.adapters.connect.resolver import Resolver
from fractal_rm.adapters.connect.resolver_files import is_address
from fractal_rm.adapters.connect.sources import NotResolved
from fractal_rm.adapters.connect.watched_settings import MAX_CACHED_NAMES
from fractal_rm.adapters.operating_system import SystemRandom
from fractal_rm.adapters.tls import describe_tls_error
from fractal_rm.domain.address import is_link_local
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.descriptors import is_out_of_descriptors
from fractal_rm.domain.list_names import MAX_LISTED

T = TypeVar("T")
Release = Callable[[], None]
_CLOSED = "the server closed the connection immediately"


class Connector:
    """Connects to a host: resolves its name, and tries its addresses in turn.

    The error of a failed connection lists all attempts.
    """

    def __init__(
        self, resolver: Resolver | None = None, descriptors: DescriptorQueue | None = None
    ) -> None:
        self._resolver = resolver or Resolver(SystemRandom().token)
        self._descriptors = descriptors or DescriptorQueue()
        self._queue = asyncio.Lock()  # this connector's queue for file descriptors
        # host -> the address to try first: it worked when others had failed
        self._preferred: dict[str, str] = {}

    async def connect(
        self,
        protocol: asyncio.Protocol,
        host: str,
        port: int,
        *,
        limit_s: float,
        ends_s: float,
        tls: Callable[[], ssl.SSLContext] | None = None,
        server_name: str | None = None,
    ) -> asyncio.Transport:
        """Connect ``protocol`` within ``limit_s`` seconds. Raises ConnectFailed.

        ``server_name`` is the name in the certificate of the server, if it is not ``host``.

        If no file descriptor is free, the time of waiting for one does not count. Everything,
        including this waiting, must end before ``ends_s`` on the loop's clock.
        """
        context = None
        if tls is not None:
            context = await self._with_descriptor(_operation(tls), _Deadline(limit_s, ends_s))
        deadline = _Deadline(limit_s, ends_s)
        addresses = await self._resolve(host, deadline)
        failures: list[str] = []
        for index, address in enumerate(addresses):
            attempt = _Attempt(address, port, server_name or host, context)
            remaining = len(addresses) - index
            try:
                transport = await self._with_descriptor(
                    lambda release, attempt=attempt, remaining=remaining: attempt.open(
                        protocol, deadline.left_s() / remaining, release
                    ),
                    deadline,
                    in_turn=True,
                )
            except _AttemptFailed as error:
                prefix = "" if address == host else f"{address}: "
                failures.append(f"{prefix}{error}")
                continue
            if index > 0:  # the addresses before this one have failed
                self._prefer(host, address)
            return transport
        if len(failures) > MAX_LISTED:
            failures[MAX_LISTED:] = [f"and so on: all {len(failures)} addresses failed"]
        raise ConnectFailed("; ".join(failures))

    def with_own_resolver(self) -> Connector:
        """Make a connector with its own resolver. Both take turns to get file descriptors."""
        return Connector(descriptors=self._descriptors)

    @property
    def waiting_count(self) -> int:
        """How many connections wait for a file descriptor.

        The connections of connectors from `with_own_resolver` are included.
        """
        return self._descriptors.waiting_count

    def preferred_address(self, host: str) -> str | None:
        """The address of a host that is tried first, since it worked when others had failed.

        None if there is no such address.
        """
        return self._preferred.get(host)

    def close(self) -> None:
        """Cancel all name lookups."""
        self._resolver.close()

    async def _resolve(self, host: str, deadline: _Deadline) -> tuple[str, ...]:
        """The addresses of a host, the preferred address first."""
        if is_address(host):
            return (host,)
        try:
            addresses = await self._with_descriptor(
                lambda release: self._look_up(host, deadline.left_s(), release), deadline
            )
        except asyncio.TimeoutError:
            reason = f"{self._resolver.missing_answer(host)} within {deadline.limit_s:.3g} s"
            raise ConnectFailed(reason) from None
        except NotResolved as error:
            raise ConnectFailed(str(error)) from error
        except ValueError:
            raise ConnectFailed("this is not a valid host name") from None
        except OSError as error:
            file_prefix = f"{error.filename}: " if error.filename else ""
            reason = f"the name {host} did not resolve: {file_prefix}{error.strerror or error}"
            raise ConnectFailed(reason) from error
        preferred = self._preferred.get(host)
        return tuple(sorted(addresses, key=lambda address: address != preferred))

    def _prefer(self, host: str, address: str) -> None:
        if len(self._preferred) >= MAX_CACHED_NAMES:
            self._preferred.clear()
        self._preferred[host] = address

    async def _look_up(self, host: str, limit_s: float, release: Release) -> tuple[str, ...]:
        release()
        return await asyncio.wait_for(self._resolver.addresses(host), limit_s)

    async def _with_descriptor(
        self,
        operation: Callable[[Release], Awaitable[T]],
        deadline: _Deadline,
        *,
        in_turn: bool = False,
    ) -> T:
        """Run an operation that needs a file descriptor. If none is free, wait for one and retry.

        A reserved descriptor belongs to an open socket that is not used. ``operation`` gets a
        function that closes this socket, and must call it right before it opens its own descriptor.
        ``in_turn``: if other connections already wait for a descriptor, wait behind them first.
        Raises ConnectFailed.
        """
        reserved: socket.socket | None = None
        if in_turn and self._descriptors.has_waiting:
            reserved = await self._reserve(deadline)
        while True:
            release = _do_nothing if reserved is None else reserved.close
            try:
                return await operation(release)
            except OSError as error:
                if not is_out_of_descriptors(error):
                    raise
            finally:
                if reserved is not None:
                    reserved.close()
            reserved = await self._reserve(deadline)

    async def _reserve(self, deadline: _Deadline) -> socket.socket:
        """Wait for a file descriptor. Returns an open socket that reserves it."""
        began_s = deadline.now_s()
        limit_s = max(0.0, deadline.latest_s - began_s)
        try:
            return await asyncio.wait_for(self._descriptors.get(self._queue), limit_s)
        except asyncio.TimeoutError:
            reason = f"{self._descriptors.describe()}, and none became free within {limit_s:.2g} s"
            raise ConnectFailed(reason) from None
        finally:
            deadline.until_s += deadline.now_s() - began_s


class _Deadline:
    """The end of a time limit of ``limit_s`` seconds: ``until_s`` on the loop's clock.

    The time of waiting for a descriptor is added to ``until_s``. The deadline is never later than
    ``latest_s``.
    """

    def __init__(self, limit_s: float, latest_s: float) -> None:
        self.now_s = asyncio.get_running_loop().time
        self.limit_s = limit_s
        self.latest_s = latest_s
        self.until_s = self.now_s() + limit_s

    def left_s(self) -> float:
        """The seconds until the deadline; never negative."""
        return max(0.0, min(self.until_s, self.latest_s) - self.now_s())


class _AttemptFailed(Exception):
    """An attempt to connect to an address failed; the text is the reason."""


class _Attempt:
    """An attempt to connect to an address of a host."""

    def __init__(self, address: str, port: int, name: str, context: ssl.SSLContext | None) -> None:
        self._address = address
        self._port = port
        self._context = context
        # The host name in a certificate has no zone, and no dot at its end (RFC 6066, 3).
        self._certificate_name = name.partition("%")[0].rstrip(".")

    async def open(
        self, protocol: asyncio.Protocol, limit_s: float, release: Release
    ) -> asyncio.Transport:
        """Connect within ``limit_s``. Raises _AttemptFailed; OSError if no descriptor is free."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + limit_s
        plain_protocol = protocol if self._context is None else asyncio.Protocol()

        async def open_plain() -> asyncio.Transport:
            release()  # the loop opens its socket before another task can take the descriptor
            if is_link_local(self._address):
                sock = await connect_socket(self._address, self._port)
                transport, _ = await loop.create_connection(lambda: plain_protocol, sock=sock)
                return transport
            transport, _ = await loop.create_connection(
                lambda: plain_protocol, self._address, self._port
            )
            return transport

        try:
            transport = await asyncio.wait_for(open_plain(), limit_s)
        except asyncio.TimeoutError:
            raise _AttemptFailed(f"no connection within {limit_s:.3g} s") from None
        except ConnectionRefusedError as error:
            raise _AttemptFailed("connection refused") from error
        except OSError as error:
            if is_out_of_descriptors(error):
                raise
            raise _AttemptFailed(describe_socket_error(self._address, error)) from error
        except UnicodeError as error:
            raise _AttemptFailed(describe_socket_error(self._address, error)) from error
        if self._context is None:
            return transport
        transport = await self._start_tls(transport, self._context, ends_s - loop.time())
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return transport

    async def _start_tls(
        self, plain: asyncio.Transport, context: ssl.SSLContext, limit_s: float
    ) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        placeholder = _Placeholder(loop)
        name = self._certificate_name

        async def handshake() -> asyncio.Transport | None:
            if plain.is_closing():  # uvloop would still wait for an answer
                raise _AttemptFailed(_CLOSED)
            return await loop.start_tls(plain, placeholder, context, server_hostname=name)

        try:
            transport = await asyncio.wait_for(handshake(), limit_s)
        except BaseException as error:
            plain.abort()
            reason = _describe_handshake_error(error)
            if reason is None:
                raise
            raise _AttemptFailed(reason) from error
        # With TLS 1.3, the server may refuse the connection after the handshake.
        if transport is None or transport.is_closing():
            plain.abort()
            done, _ = await asyncio.wait((placeholder.end,), timeout=limit_s)
            late_error = placeholder.end.result() if done else None
            reason = None if late_error is None else _describe_handshake_error(late_error)
            raise _AttemptFailed(reason or _CLOSED) from late_error
        return transport


class _Placeholder(asyncio.Protocol):
    """The protocol during the handshake.

    ``end`` is a future for the end of the connection. Its result is the error that ended the
    connection, or None if the connection was closed without an error.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.end: asyncio.Future[Exception | None] = loop.create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.end.set_result(exc)


def _describe_handshake_error(error: BaseException) -> str | None:
    """A text for people: why the handshake failed. None: the error is not from the handshake."""
    if isinstance(error, asyncio.TimeoutError):
        return "the server accepted the connection, but did not answer the TLS handshake in time"
    if isinstance(error, ssl.SSLError):
        return describe_tls_error(error)
    if isinstance(error, ConnectionError):
        return "the server closed the connection in the TLS handshake"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return None


def _do_nothing() -> None:
    pass


def _operation(make: Callable[[], T]) -> Callable[[Release], Awaitable[T]]:
    """Make an operation for `Connector._with_descriptor` from the function ``make``."""

    async def run(release: Release) -> T:
        release()
        return make()

    return run
