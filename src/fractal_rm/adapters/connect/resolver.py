"""Resolves host names without blocking threads. The number and the time of lookups are limited.

    IP address, /etc/hosts ──> returned immediately
    cached name            ──> returned immediately, until it expires
    any other name         ──> looked up: at most 32 names at a time, and 3 s for each

DNS servers are asked directly, because lookups by the C library run in threads and cannot be
stopped. If a DNS server did not answer, such lookups would occupy all threads of the event loop,
and the lookup of every other name would have to wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import msgspec

from fractal_rm.adapters.connect.dns_client import PORT, ServersFailed
from fractal_rm.adapters.connect.dns_message import is_name
from fractal_rm.adapters.connect.resolver_files import is_address
from fractal_rm.adapters.connect.sources import MAX_TTL_S, NameSources, NotResolved
from fractal_rm.adapters.connect.watched_settings import (
    MAX_CACHED_NAMES,
    HostsFile,
    WatchedSettings,
)

MAX_LOOKUPS = 32
LOOKUP_LIMIT_S = 3.0
TIMEOUT_CACHED_S = 30.0  # how long a timeout is cached
FAILURE_CACHED_S = 5.0  # how long a failure is cached: no such name, or all servers failed


class _Cached(msgspec.Struct, frozen=True):
    """The result of a lookup, valid until ``until_s`` on the loop's clock.

    If there are no addresses, ``failure`` is the reason.
    """

    until_s: float
    addresses: tuple[str, ...] = ()
    failure: str = ""


class Resolver:
    """Resolves names with the settings of this machine. Each call checks if the files have changed.

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
        self._hosts = HostsFile(hosts)
        self._settings = WatchedSettings(resolv_conf, nsswitch)
        self._sources = NameSources(self._settings, token, port)
        self._cache: dict[str, _Cached] = {}
        self._lookups: dict[str, asyncio.Task[tuple[str, ...]]] = {}
        self._slots = asyncio.Semaphore(MAX_LOOKUPS)
        self._closed = False

    async def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a host, in the order in which to try them.

        Raises NotResolved; ValueError if the name is not valid; OSError if a file cannot be read or
        no socket can be opened.
        """
        if is_address(name):
            return (name,)
        name = name.lower()  # RFC 4343: the case of names is ignored
        listed_addresses = self._hosts.addresses(name)
        if listed_addresses:
            return listed_addresses
        if not is_name(name):
            raise ValueError(f"{name!r:.80} is not a valid host name")
        if self._settings.reload():
            self._cache.clear()
            self._end_lookups()
            self._sources.forget_lookups()
        now_s = asyncio.get_running_loop().time()
        cached = self._cache.get(name)
        if cached is not None and now_s < cached.until_s:
            if cached.addresses:
                return cached.addresses
            expires_in_s = cached.until_s - now_s
            raise NotResolved(
                f"{cached.failure}; the name is looked up again in {expires_in_s:.0f} s"
            )
        lookup = self._lookup(name)
        await asyncio.wait((lookup,))  # does not cancel the lookup if the caller is cancelled
        if not lookup.cancelled():
            return lookup.result()
        if self._closed:
            raise NotResolved(f"the name {name} did not resolve: the node is stopping")
        return await self.addresses(name)  # the settings have changed: look up again

    def missing_answer(self, name: str) -> str:
        """A text for people: why the lookup of a name has no result yet."""
        source = self._sources.current_sources.get(name.lower())
        if source is None:
            return f"the name {name} did not resolve: {MAX_LOOKUPS} other names are being looked up"
        return f"the name {name} did not resolve: no answer from {source}"

    def close(self) -> None:
        """Cancel all lookups."""
        self._closed = True
        self._end_lookups()

    # --- a lookup -----------------------------------------------------------------------------

    def _lookup(self, name: str) -> asyncio.Task[tuple[str, ...]]:
        """The running lookup of a name; if there is none, start a lookup."""
        lookup = self._lookups.get(name)
        if lookup is None:
            lookup = self._lookups[name] = asyncio.create_task(self._look_up(name))
            lookup.add_done_callback(lambda done: self._forget(name, done))
        return lookup

    def _forget(self, name: str, lookup: asyncio.Task[tuple[str, ...]]) -> None:
        if self._lookups.get(name) is lookup:
            del self._lookups[name]
            self._sources.current_sources.pop(name, None)
        if not lookup.cancelled():
            lookup.exception()  # otherwise asyncio logs the error if no caller waits any more

    def _end_lookups(self) -> None:
        for lookup in self._lookups.values():
            lookup.cancel()
        self._lookups.clear()
        self._sources.current_sources.clear()

    async def _look_up(self, name: str) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        async with self._slots:
            try:
                addresses, ttl_s = await asyncio.wait_for(self._sources.ask(name), LOOKUP_LIMIT_S)
            except asyncio.TimeoutError:
                reason = f"{self.missing_answer(name)} within {LOOKUP_LIMIT_S:.0f} s"
                result = _Cached(loop.time() + TIMEOUT_CACHED_S, failure=reason)
            except (NotResolved, ServersFailed) as error:
                reason = f"the name {name} did not resolve: {error}"
                result = _Cached(loop.time() + FAILURE_CACHED_S, failure=reason)
            else:
                result = _Cached(loop.time() + max(1.0, min(MAX_TTL_S, ttl_s)), addresses)
        if len(self._cache) >= MAX_CACHED_NAMES:
            self._cache.clear()
        self._cache[name] = result
        if result.failure:
            raise NotResolved(result.failure)
        return result.addresses
