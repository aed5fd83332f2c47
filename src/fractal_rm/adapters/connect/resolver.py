"""Resolves host names without blocking threads, and with a limit on everything.

    IP address, /etc/hosts ──> returned at once
    cached name            ──> returned at once, until it expires
    any other name         ──> a lookup: one for each name, at most 32 at a time, 3 s each

Lookups by the C library cannot be stopped. A few DNS servers that do not answer would occupy all
threads that the event loop has for lookups, and every other name would have to wait.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from fractal_rm.adapters.connect.dns_client import PORT, ServersFailed, ask
from fractal_rm.adapters.connect.dns_message import AAAA, NO_SUCH_NAME, A, DnsAnswer, is_name
from fractal_rm.adapters.connect.nss import CLibrary
from fractal_rm.adapters.connect.resolver_files import (
    ResolverSettings,
    WatchedFile,
    addresses_in,
    is_address,
    other_sources,
    read_settings,
)

MAX_LOOKUPS = 32
LOOKUP_LIMIT_S = 3.0
SILENT_S = 30.0  # how long a timeout is cached
FAILED_S = 5.0  # how long it is cached that a name does not exist or that its servers refused
MAX_TTL_S = 30.0  # the longest time for which addresses are cached
MAX_CACHED_NAMES = 1024  # more than any configuration has
OTHER_FAMILY_S = 0.05  # how long IPv4 and IPv6 answers wait for each other (RFC 8305, 3)


class NotResolved(Exception):
    """A name has no address; the text says why."""


class _Cached(msgspec.Struct, frozen=True):
    """The result of a lookup, until ``until_s`` on the loop's clock; ``why`` if no addresses."""

    until_s: float
    addresses: tuple[str, ...] = ()
    why: str = ""


class Resolver:
    """Resolves names with the settings of this machine. Each call notices changes of its files.

    ``token`` returns random bytes; ``port`` is the port of the DNS servers.
    """

    def __init__(
        self,
        token: Callable[[int], bytes],
        *,
        hosts: Path = Path("/etc/hosts"),
        resolv_conf: Path = Path("/etc/resolv.conf"),
        nsswitch: Path = Path("/etc/nsswitch.conf"),
        port: int = PORT,
    ) -> None:
        self._hosts, self._resolv_conf, self._nsswitch = (
            WatchedFile(path) for path in (hosts, resolv_conf, nsswitch)
        )
        self._port = port
        self._token = token
        self._library = CLibrary()
        self._settings = ResolverSettings()
        self._other_sources: frozenset[str] = frozenset()
        self._rotated = 0
        self._cache: dict[str, _Cached] = {}
        self._in_hosts: dict[str, tuple[str, ...]] = {}
        self._lookups: dict[str, asyncio.Task[tuple[str, ...]]] = {}
        self._asked: dict[str, str] = {}  # by name: the server or source that is asked now
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)
        self._closed = False

    async def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a host, in the order in which to try them.

        Raises NotResolved; ValueError where the name is not valid; OSError where a file cannot be
        read or no socket can be opened.
        """
        if is_address(name):
            return (name,)
        name = name.lower()  # names are case-insensitive (RFC 4343): share the lookup
        found = self._from_hosts(name)
        if found:
            return found
        if not is_name(name):
            raise ValueError(f"{name!r:.80} is not a valid host name")
        self._reload_settings()
        now_s = asyncio.get_running_loop().time()
        cached = self._cache.get(name)
        if cached is not None and now_s < cached.until_s:
            if cached.addresses:
                return cached.addresses
            again_s = cached.until_s - now_s
            raise NotResolved(f"{cached.why}; it is looked up again in {again_s:.0f} s")
        lookup = self._lookup(name)
        await asyncio.wait((lookup,))  # does not cancel the lookup if the caller is cancelled
        if not lookup.cancelled():
            return lookup.result()
        if self._closed:
            raise NotResolved(f"the name {name} did not resolve: the node is stopping")
        return await self.addresses(name)  # the settings have changed: look up again

    def unanswered(self, name: str) -> str:
        """Why the lookup of a name has no result yet."""
        asked = self._asked.get(name.lower())
        if asked is None:
            return f"the name {name} did not resolve: {MAX_LOOKUPS} others are being looked up"
        return f"the name {name} did not resolve: no answer from {asked}"

    def close(self) -> None:
        """End all lookups."""
        self._closed = True
        self._end_lookups()

    # --- files and caches ---------------------------------------------------------------------

    def _reload_settings(self) -> None:
        settings = self._resolv_conf.read_if_changed()
        if settings is not None:
            self._set(read_settings(settings), self._other_sources)
        sources = self._nsswitch.read_if_changed()
        if sources is not None:
            self._set(self._settings, other_sources(sources))

    def _set(self, settings: ResolverSettings, sources: frozenset[str]) -> None:
        """Use these settings. If they differ, drop the cache and restart the lookups.

        A file that is written again with the same settings, as by a DHCP client, changes nothing.
        """
        if (settings, sources) == (self._settings, self._other_sources):
            return
        self._settings, self._other_sources = settings, sources
        self._cache.clear()
        self._end_lookups()
        self._library.forget_lookups()

    def _from_hosts(self, name: str) -> tuple[str, ...]:
        if self._hosts.read_if_changed() is not None:
            self._in_hosts.clear()
        found = self._in_hosts.get(name)
        if found is None:
            if len(self._in_hosts) >= MAX_CACHED_NAMES:
                self._in_hosts.clear()
            found = self._in_hosts[name] = addresses_in(self._hosts.read(), name)
        return found

    # --- a lookup -----------------------------------------------------------------------------

    def _lookup(self, name: str) -> asyncio.Task[tuple[str, ...]]:
        """The running lookup of a name, or a new one."""
        lookup = self._lookups.get(name)
        if lookup is None:
            lookup = self._lookups[name] = asyncio.create_task(self._look_up(name))
            lookup.add_done_callback(lambda done: self._forget(name, done))
        return lookup

    def _forget(self, name: str, lookup: asyncio.Task[tuple[str, ...]]) -> None:
        if self._lookups.get(name) is lookup:
            del self._lookups[name]
            self._asked.pop(name, None)
        if not lookup.cancelled():
            lookup.exception()  # nobody may wait any more: asyncio would log it as not retrieved

    def _end_lookups(self) -> None:
        for lookup in self._lookups.values():
            lookup.cancel()
        self._lookups.clear()
        self._asked.clear()

    async def _look_up(self, name: str) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        async with self._slots:
            try:
                addresses, ttl_s = await asyncio.wait_for(self._ask(name), LOOKUP_LIMIT_S)
            except asyncio.TimeoutError:
                why = f"{self.unanswered(name)} within {LOOKUP_LIMIT_S:.0f} s"
                result = _Cached(loop.time() + SILENT_S, why=why)
            except (NotResolved, ServersFailed) as error:
                why = f"the name {name} did not resolve: {error}"
                result = _Cached(loop.time() + FAILED_S, why=why)
            else:
                result = _Cached(loop.time() + max(1.0, min(MAX_TTL_S, ttl_s)), addresses)
        if len(self._cache) >= MAX_CACHED_NAMES:
            self._cache.clear()
        self._cache[name] = result
        if result.why:
            raise NotResolved(result.why)
        return result.addresses

    async def _ask(self, name: str) -> tuple[tuple[str, ...], float]:
        """The addresses and their TTL. DNS is asked first, except for the names of mDNS."""
        by_mdns = any("mdns" in source for source in self._other_sources)
        if by_mdns and name.rstrip(".").endswith(".local"):
            return await self._ask_library(name)
        asked = self._asked[name] = f"DNS {', '.join(self._settings.servers)}"
        failed = None
        for candidate in filter(is_name, self._settings.candidates(name)):
            try:
                addresses, ttl_s = await self._ask_servers(candidate)
            except ServersFailed as error:
                failed = error
                continue
            if addresses:
                return addresses, ttl_s
        if self._other_sources:
            return await self._ask_library(name)
        raise failed or NotResolved(f"it does not exist or has no address, says {asked}")

    async def _ask_library(self, name: str) -> tuple[tuple[str, ...], float]:
        sources = ", ".join(sorted(self._other_sources))
        asked = self._asked[name] = f"the C library ({sources})"
        try:
            addresses = await self._library.addresses(name)
        except socket.gaierror as error:
            raise NotResolved(f"{asked}: {error.strerror}") from error
        if not addresses:
            raise NotResolved(f"it does not exist or has no address, says {asked}")
        return addresses, MAX_TTL_S

    async def _ask_servers(self, name: str) -> tuple[tuple[str, ...], int]:
        """Ask for IPv4 and IPv6 addresses at the same time; IPv6 ones are first (RFC 6724)."""
        settings = self._settings
        if settings.rotate:
            self._rotated += 1
            start = self._rotated % len(settings.servers)
            servers = settings.servers[start:] + settings.servers[:start]
            settings = msgspec.structs.replace(settings, servers=servers)
        queries = [
            asyncio.create_task(ask(settings, name, kind, self._message_id(), self._port))
            for kind in (AAAA, A)
        ]
        try:
            done, left = await asyncio.wait(queries, return_when=asyncio.FIRST_COMPLETED)
            if left:
                sufficient = any(_is_sufficient(each, is_a=each is queries[1]) for each in done)
                await asyncio.wait(left, timeout=OTHER_FAMILY_S if sufficient else None)
            ended = [query for query in queries if query.done()]
            found = [a for a in map(_answer, ended) if a is not None and a.addresses]
            if not found:
                for query in ended:
                    query.result()  # raises the error of the query, if it has one
            addresses = tuple(address for answer in found for address in answer.addresses)
            return addresses, min((answer.ttl_s for answer in found), default=0)
        finally:
            for query in queries:
                query.cancel()

    def _message_id(self) -> int:
        return int.from_bytes(self._token(2), "big")


def _answer(query: asyncio.Task[DnsAnswer]) -> DnsAnswer | None:
    return None if query.exception() else query.result()


def _is_sufficient(query: asyncio.Task[DnsAnswer], *, is_a: bool) -> bool:
    """Whether the other query need not end: this one found an address, or that no name exists.

    "No such name" counts for A only: some servers say it for AAAA although the name exists.
    """
    answer = _answer(query)
    return answer is not None and (bool(answer.addresses) or (is_a and answer.code == NO_SUCH_NAME))
