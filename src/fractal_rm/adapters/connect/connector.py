"""TCP connections, with TLS or without, to a host that has a name or an address."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Awaitable, Callable
from typing import TypeVar

from fractal_rm.adapters.connect.descriptors import Descriptors
from fractal_rm.adapters.connect.files import is_address
from fractal_rm.adapters.connect.names import KEPT_AT_MOST, Names, NotResolved
from fractal_rm.adapters.connect.numeric import connected, why_no_socket
from fractal_rm.adapters.connect.tls_words import tls_words
from fractal_rm.adapters.world import SystemRandom
from fractal_rm.domain.address import is_link_local
from fractal_rm.domain.call_errors import ConnectFailed
from fractal_rm.domain.named import MOST_NAMED
from fractal_rm.domain.none_left import none_left

T = TypeVar("T")
Release = Callable[[], None]
_CLOSED = "it closed the connection at once"


class Connector:
    """Resolves a name, tries its addresses in turn, and tells what it tried."""

    def __init__(self, names: Names | None = None, descriptors: Descriptors | None = None) -> None:
        self._names = names or Names(SystemRandom().token)
        self._descriptors = descriptors or Descriptors()
        self._line = asyncio.Lock()
        self._worked: dict[str, str] = {}  # by host, the address that took the last connection

    async def connect(
        self,
        protocol: asyncio.Protocol,
        host: str,
        port: int,
        *,
        limit_s: float,
        ends_s: float,
        tls: Callable[[], ssl.SSLContext] | None = None,
    ) -> asyncio.Transport:
        """Connect ``protocol`` within ``limit_s`` seconds. Raises ConnectFailed.

        Waiting for a file descriptor is no part of them: it ends at ``ends_s`` of the loop's clock.
        """
        context = None
        if tls is not None:
            context = await self._once_possible(_at_once(tls), _Time(limit_s, ends_s))
        time = _Time(limit_s, ends_s)
        addresses = await self._resolve(host, time)
        tried: list[str] = []
        for at, address in enumerate(addresses):
            way = _Way(address, port, host, context)
            left = len(addresses) - at
            try:
                transport = await self._once_possible(
                    lambda release, way=way, left=left: way.open(
                        protocol, time.left_s() / left, release
                    ),
                    time,
                    in_turn=True,
                )
            except _NotOpened as error:
                tried.append(str(error) if address == host else f"{address}: {error}")
                continue
            if at:
                self._prefer(host, address)
            return transport
        if len(tried) > MOST_NAMED:
            tried[MOST_NAMED:] = [f"and so on: none of {len(tried)} addresses took it"]
        raise ConnectFailed("; ".join(tried))

    def beside(self) -> Connector:
        """Another one: it waits behind no name of ours, and takes turns with us for descriptors."""
        return Connector(descriptors=self._descriptors)

    def close(self) -> None:
        """End all lookups of names."""
        self._names.close()

    async def _resolve(self, host: str, time: _Time) -> tuple[str, ...]:
        """The addresses of a host, with the one first that worked last."""
        if is_address(host):
            return (host,)
        try:
            found = await self._once_possible(
                lambda release: self._addresses(host, time.left_s(), release), time
            )
        except asyncio.TimeoutError:
            why = f"{self._names.unanswered(host)} within {time.limit_s:.3g} s"
            raise ConnectFailed(why) from None
        except NotResolved as error:
            raise ConnectFailed(str(error)) from error
        except ValueError:
            raise ConnectFailed("there can be no host of this name") from None
        except OSError as error:
            where = f"{error.filename}: " if error.filename else ""
            why = f"the name {host} did not resolve: {where}{error.strerror or error}"
            raise ConnectFailed(why) from error
        first = self._worked.get(host)
        return tuple(sorted(found, key=lambda each: each != first))

    def _prefer(self, host: str, address: str) -> None:
        if len(self._worked) >= KEPT_AT_MOST:
            self._worked.clear()
        self._worked[host] = address

    async def _addresses(self, host: str, limit_s: float, release: Release) -> tuple[str, ...]:
        release()
        return await asyncio.wait_for(self._names.addresses(host), limit_s)

    async def _once_possible(
        self, do: Callable[[Release], Awaitable[T]], time: _Time, *, in_turn: bool = False
    ) -> T:
        """Do what takes a file descriptor; where none is left, once one has come free.

        ``do`` is given a function that releases the one that was kept for it, and calls that right
        before it takes one. ``in_turn``: not before those who wait already. Raises ConnectFailed.
        """
        held = await self._descriptor(time) if in_turn and self._descriptors.short else None
        while True:
            try:
                return await do(_nothing if held is None else held.close)
            except OSError as error:
                if not none_left(error):
                    raise
            finally:
                if held is not None:
                    held.close()
            held = await self._descriptor(time)

    async def _descriptor(self, time: _Time) -> socket.socket:
        began_s = time.now_s()
        waits_s = max(0.0, time.ends_s - began_s)
        try:
            return await asyncio.wait_for(self._descriptors.get(self._line), waits_s)
        except asyncio.TimeoutError:
            why = f"{self._descriptors.words()}, and none came free within {waits_s:.2g} s"
            raise ConnectFailed(why) from None
        finally:
            time.until_s += time.now_s() - began_s


class _Time:
    """``limit_s`` seconds from now, until ``until_s`` of the loop's clock.

    Each wait for a descriptor puts that off; nothing goes beyond ``ends_s``.
    """

    def __init__(self, limit_s: float, ends_s: float) -> None:
        self.now_s = asyncio.get_running_loop().time
        self.limit_s = limit_s
        self.ends_s = ends_s
        self.until_s = self.now_s() + limit_s

    def left_s(self) -> float:
        """How long what is done now may take."""
        return max(0.0, min(self.until_s, self.ends_s) - self.now_s())


class _NotOpened(Exception):
    """An address did not take the connection, and why."""


class _Way:
    """One address of a host, and how it is spoken to there."""

    def __init__(self, address: str, port: int, host: str, context: ssl.SSLContext | None) -> None:
        self._address = address
        self._port = port
        self._context = context
        # A certificate names no zone, and no dot at the end (RFC 6066, 3).
        self._certified = host.partition("%")[0].rstrip(".")

    async def open(
        self, protocol: asyncio.Protocol, limit_s: float, release: Release
    ) -> asyncio.Transport:
        """Raises _NotOpened, and OSError where no file descriptor is left."""
        loop = asyncio.get_running_loop()
        ends_s = loop.time() + limit_s
        first = protocol if self._context is None else asyncio.Protocol()

        async def opened() -> asyncio.Transport:
            release()  # and nobody else runs until the socket is made
            if is_link_local(self._address):
                sock = await connected(self._address, self._port)
                transport, _ = await loop.create_connection(lambda: first, sock=sock)
                return transport
            transport, _ = await loop.create_connection(lambda: first, self._address, self._port)
            return transport

        try:
            transport = await asyncio.wait_for(opened(), limit_s)
        except asyncio.TimeoutError:
            raise _NotOpened(f"no connection within {limit_s:.3g} s") from None
        except ConnectionRefusedError as error:
            raise _NotOpened("connection refused") from error
        except OSError as error:
            if none_left(error):
                raise
            raise _NotOpened(why_no_socket(self._address, error)) from error
        except UnicodeError as error:
            raise _NotOpened(why_no_socket(self._address, error)) from error
        if self._context is None:
            return transport
        transport = await self._secured(transport, self._context, ends_s - loop.time())
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
        return transport

    async def _secured(
        self, plain: asyncio.Transport, context: ssl.SSLContext, limit_s: float
    ) -> asyncio.Transport:
        loop = asyncio.get_running_loop()
        waiting = _Waiting(loop)

        async def begun() -> asyncio.Transport | None:
            if plain.is_closing():  # uvloop would wait for an answer all the same
                raise _NotOpened(_CLOSED)
            return await loop.start_tls(plain, waiting, context, server_hostname=self._certified)

        try:
            transport = await asyncio.wait_for(begun(), limit_s)
        except BaseException as error:
            plain.abort()
            reason = _tls_reason(error)
            if reason is None:
                raise
            raise _NotOpened(reason) from error
        if transport is None or transport.is_closing():  # TLS 1.3: it refuses behind the handshake
            plain.abort()
            told, _ = await asyncio.wait((waiting.lost,), timeout=limit_s)
            lost = waiting.lost.result() if told else None
            raise _NotOpened((lost and _tls_reason(lost)) or _CLOSED) from lost
        return transport


class _Waiting(asyncio.Protocol):
    """In the place of the protocol until TLS is there; tells why the connection was lost."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lost: asyncio.Future[Exception | None] = loop.create_future()

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by the loop."""
        self.lost.set_result(exc)


def _tls_reason(error: BaseException) -> str | None:
    """Why TLS did not come to be, for people; None where it is not the network's fault."""
    if isinstance(error, asyncio.TimeoutError):
        return "it took the connection, and did not answer the TLS handshake in time"
    if isinstance(error, ssl.SSLError):
        return tls_words(error)
    if isinstance(error, ConnectionError):
        return "it closed the connection in the TLS handshake"
    if isinstance(error, OSError):
        return error.strerror or str(error)
    return None


def _nothing() -> None:
    pass


def _at_once(make: Callable[[], T]) -> Callable[[Release], Awaitable[T]]:
    async def made(release: Release) -> T:
        release()
        return make()

    return made
