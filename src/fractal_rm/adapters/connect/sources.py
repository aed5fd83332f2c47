"""Asks the sources of host names: DNS servers directly, other sources by the C library."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

import msgspec

from fractal_rm.adapters.connect.dns_client import ServersFailed, ask
from fractal_rm.adapters.connect.dns_message import AAAA, NO_SUCH_NAME, A, DnsAnswer, is_name
from fractal_rm.adapters.connect.nss import CLibrary
from fractal_rm.adapters.connect.watched_settings import WatchedSettings

MAX_TTL_S = 30.0  # addresses are used for this time at most
# How long to wait for the answer about the other address family when the first answer is sufficient
# (RFC 8305, 3).
OTHER_FAMILY_S = 0.05


class NotResolved(Exception):
    """A name has no address; the text is the reason."""


class NameSources:
    """Asks the sources in the settings of this machine, without a cache and without time limits.

    ``token`` returns random bytes; ``port`` is the port of the DNS servers. ``current_sources`` has
    a text for each name that is being looked up: the source that is being asked.
    """

    def __init__(self, settings: WatchedSettings, token: Callable[[int], bytes], port: int) -> None:
        self._settings = settings
        self._token = token
        self._port = port
        self._library = CLibrary()
        self._rotated = 0
        self.current_sources: dict[str, str] = {}

    def forget_lookups(self) -> None:
        """Let later calls start new lookups in the C library; see `CLibrary.forget_lookups`."""
        self._library.forget_lookups()

    async def ask(self, name: str) -> tuple[tuple[str, ...], float]:
        """The addresses of a name and their TTL in seconds.

        DNS servers are asked first. If mDNS is configured, they are not asked for names in
        ``.local``.

        Raises NotResolved; ServersFailed; OSError if no file descriptor is free.
        """
        by_mdns = any("mdns" in source for source in self._settings.c_library_sources)
        if by_mdns and name.rstrip(".").endswith(".local"):
            return await self._ask_library(name)
        source = self.current_sources[name] = f"DNS {', '.join(self._settings.resolver.servers)}"
        failed = None
        for candidate in filter(is_name, self._settings.resolver.candidates(name)):
            try:
                addresses, ttl_s = await self._ask_servers(candidate)
            except ServersFailed as error:
                failed = error
                continue
            if addresses:
                return addresses, ttl_s
        if self._settings.c_library_sources:
            return await self._ask_library(name)
        raise failed or NotResolved(f"according to {source}, it does not exist or has no address")

    async def _ask_library(self, name: str) -> tuple[tuple[str, ...], float]:
        sources = ", ".join(sorted(self._settings.c_library_sources))
        source = self.current_sources[name] = f"the C library ({sources})"
        try:
            addresses = await self._library.addresses(name)
        except socket.gaierror as error:
            raise NotResolved(f"{source}: {error.strerror}") from error
        if not addresses:
            raise NotResolved(f"according to {source}, it does not exist or has no address")
        return addresses, MAX_TTL_S

    async def _ask_servers(self, name: str) -> tuple[tuple[str, ...], int]:
        """Ask for IPv6 and IPv4 addresses at the same time. IPv6 addresses are first (RFC 6724)."""
        settings = self._settings.resolver
        if settings.rotate:
            self._rotated += 1
            start = self._rotated % len(settings.servers)
            servers = settings.servers[start:] + settings.servers[:start]
            settings = msgspec.structs.replace(settings, servers=servers)
        queries = [
            asyncio.create_task(ask(settings, name, kind, self._message_id(), self._port))
            for kind in (AAAA, A)
        ]
        _, a_query = queries
        try:
            done, pending = await asyncio.wait(queries, return_when=asyncio.FIRST_COMPLETED)
            if pending:
                sufficient = any(_is_sufficient(query, is_a=query is a_query) for query in done)
                timeout_s = OTHER_FAMILY_S if sufficient else None
                await asyncio.wait(pending, timeout=timeout_s)
            done_queries = [query for query in queries if query.done()]
            answers = [
                answer
                for answer in map(_answer, done_queries)
                if answer is not None and answer.addresses
            ]
            if not answers:
                for query in done_queries:
                    query.result()  # raises the error of the query, if it has one
            addresses = tuple(address for answer in answers for address in answer.addresses)
            return addresses, min((answer.ttl_s for answer in answers), default=0)
        finally:
            for query in queries:
                query.cancel()

    def _message_id(self) -> int:
        return int.from_bytes(self._token(2), "big")


def _answer(query: asyncio.Task[DnsAnswer]) -> DnsAnswer | None:
    """The answer to a query that has ended; None if the query failed."""
    return None if query.exception() else query.result()


def _is_sufficient(query: asyncio.Task[DnsAnswer], *, is_a: bool) -> bool:
    """Whether the result of this query is enough without the answer to the other query.

    An answer with an address is enough. "No such name" is enough for A, but not for AAAA: some
    servers answer so for AAAA although the name exists.
    """
    answer = _answer(query)
    return answer is not None and (bool(answer.addresses) or (is_a and answer.code == NO_SUCH_NAME))
