"""The addresses of a host's name, without a thread that waits, and with a bound on everything.

    literal, /etc/hosts ──> at once
    known ──> at once, until it is too old
    else ──> a lookup: one for each name, at most 32 at once, 3 s each

A lookup in the C library cannot be ended: a few silent DNS servers would hold all the threads that
the event loop has for it, and every other name would wait behind them.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path

import msgspec

from fractal_rm.adapters.connect.files import (
    Settings,
    Watched,
    addresses_in,
    is_address,
    other_sources,
    read_settings,
)
from fractal_rm.adapters.connect.message import AAAA, NO_SUCH_NAME, A, Answer, is_name
from fractal_rm.adapters.connect.nss import CLibrary
from fractal_rm.adapters.connect.servers import PORT, ServersFailed, ask

MOST_LOOKUPS = 32
LOOKUP_LIMIT_S = 3.0
SILENT_S = 30.0  # before a name that was not answered is looked up again
FAILED_S = 5.0  # before one that does not exist is, or whose servers refuse
KEPT_S = 30.0  # the longest time for which an answer is used, whatever its TTL
KEPT_AT_MOST = 1024  # names come from the configuration: there are fewer at one time
OTHER_FAMILY_S = 0.05  # the wait for the other kind of address once one is there (RFC 8305, 3)


class NotResolved(Exception):
    """A name has no address, and why."""


class _Kept(msgspec.Struct, frozen=True):
    """What came of a lookup, until ``until_s`` of the loop's clock. No addresses: ``why``."""

    until_s: float
    addresses: tuple[str, ...] = ()
    why: str = ""


class Names:
    """Looks names up as this machine is set up to; a change of its files is seen at the next name.

    ``token`` draws bytes; ``port`` is that of the DNS servers.
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
            Watched(path) for path in (hosts, resolv_conf, nsswitch)
        )
        self._port = port
        self._token = token
        self._library = CLibrary()
        self._settings = Settings()
        self._other_sources: frozenset[str] = frozenset()
        self._rotated = 0
        self._kept: dict[str, _Kept] = {}
        self._in_hosts: dict[str, tuple[str, ...]] = {}
        self._lookups: dict[str, asyncio.Task[tuple[str, ...]]] = {}
        self._asking: dict[str, str] = {}  # who is asked for a name at the moment
        self._slots = asyncio.Semaphore(MOST_LOOKUPS)
        self._closed = False

    async def addresses(self, name: str) -> tuple[str, ...]:
        """The addresses of a host, in the order in which they are to be tried.

        Raises NotResolved, ValueError where there can be no such name, and OSError where a file
        cannot be read or no socket can be had.
        """
        if is_address(name):
            return (name,)
        name = name.lower()  # one lookup for each, however it is written (RFC 4343)
        found = self._from_hosts(name)
        if found:
            return found
        if not is_name(name):
            raise ValueError(f"there can be no host of the name {name!r:.80}")
        self._look_at_settings()
        now_s = asyncio.get_running_loop().time()
        kept = self._kept.get(name)
        if kept is not None and now_s < kept.until_s:
            if kept.addresses:
                return kept.addresses
            raise NotResolved(f"{kept.why}; it is looked up again in {kept.until_s - now_s:.0f} s")
        lookup = self._lookup(name)
        await asyncio.wait((lookup,))  # which goes on when whoever waits here is cancelled
        if not lookup.cancelled():
            return lookup.result()
        if self._closed:
            raise NotResolved(f"the name {name} did not resolve: the node is stopping")
        return await self.addresses(name)  # the files have changed meanwhile

    def unanswered(self, name: str) -> str:
        """Why a name that is being looked up has no addresses yet."""
        asked = self._asking.get(name.lower())
        if asked is None:
            return f"the name {name} did not resolve: {MOST_LOOKUPS} others are being looked up"
        return f"the name {name} did not resolve: no answer from {asked}"

    def close(self) -> None:
        """End all lookups."""
        self._closed = True
        self._end_lookups()

    # --- what is at hand ----------------------------------------------------------------------

    def _look_at_settings(self) -> None:
        settings = self._resolv_conf.fresh()
        if settings is not None:
            self._set(read_settings(settings), self._other_sources)
        sources = self._nsswitch.fresh()
        if sources is not None:
            self._set(self._settings, other_sources(sources))

    def _set(self, settings: Settings, sources: frozenset[str]) -> None:
        """Use these; where they are new, what was asked before counts no more.

        Files that are written again and say the same, as when a lease is renewed, change nothing.
        """
        if (settings, sources) == (self._settings, self._other_sources):
            return
        self._settings, self._other_sources = settings, sources
        self._kept.clear()
        self._end_lookups()
        self._library.ask_anew()

    def _from_hosts(self, name: str) -> tuple[str, ...]:
        if self._hosts.fresh() is not None:
            self._in_hosts.clear()
        found = self._in_hosts.get(name)
        if found is None:
            if len(self._in_hosts) >= KEPT_AT_MOST:
                self._in_hosts.clear()
            found = self._in_hosts[name] = addresses_in(self._hosts.text(), name)
        return found

    # --- a lookup -----------------------------------------------------------------------------

    def _lookup(self, name: str) -> asyncio.Task[tuple[str, ...]]:
        """The one that is under way, or a new one."""
        lookup = self._lookups.get(name)
        if lookup is None:
            lookup = self._lookups[name] = asyncio.create_task(self._look_up(name))
            lookup.add_done_callback(lambda done: self._forget(name, done))
        return lookup

    def _forget(self, name: str, lookup: asyncio.Task[tuple[str, ...]]) -> None:
        if self._lookups.get(name) is lookup:
            del self._lookups[name]
            self._asking.pop(name, None)
        if not lookup.cancelled():
            lookup.exception()  # whoever waited may have gone

    def _end_lookups(self) -> None:
        for lookup in self._lookups.values():
            lookup.cancel()
        self._lookups.clear()
        self._asking.clear()

    async def _look_up(self, name: str) -> tuple[str, ...]:
        loop = asyncio.get_running_loop()
        async with self._slots:
            try:
                addresses, ttl_s = await asyncio.wait_for(self._ask(name), LOOKUP_LIMIT_S)
            except asyncio.TimeoutError:
                why = f"{self.unanswered(name)} within {LOOKUP_LIMIT_S:.0f} s"
                kept = _Kept(loop.time() + SILENT_S, why=why)
            except (NotResolved, ServersFailed) as error:
                why = f"the name {name} did not resolve: {error}"
                kept = _Kept(loop.time() + FAILED_S, why=why)
            else:
                kept = _Kept(loop.time() + max(1.0, min(KEPT_S, ttl_s)), addresses)
        if len(self._kept) >= KEPT_AT_MOST:
            self._kept.clear()
        self._kept[name] = kept
        if kept.why:
            raise NotResolved(kept.why)
        return kept.addresses

    async def _ask(self, name: str) -> tuple[tuple[str, ...], float]:
        """The addresses, and for how long they hold. DNS first, except for mDNS's names."""
        by_mdns = any("mdns" in source for source in self._other_sources)
        if by_mdns and name.rstrip(".").endswith(".local"):
            return await self._ask_library(name)
        asked = self._asking[name] = f"DNS {', '.join(self._settings.servers)}"
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
        asked = self._asking[name] = f"the C library ({sources})"
        try:
            addresses = await self._library.addresses(name)
        except socket.gaierror as error:
            raise NotResolved(f"{asked}: {error.strerror}") from error
        if not addresses:
            raise NotResolved(f"it does not exist or has no address, says {asked}")
        return addresses, KEPT_S

    async def _ask_servers(self, name: str) -> tuple[tuple[str, ...], int]:
        """Ask for both kinds of address at once; IPv6 ones come first (RFC 6724)."""
        settings = self._settings
        if settings.rotate:
            self._rotated += 1
            at = self._rotated % len(settings.servers)
            servers = settings.servers[at:] + settings.servers[:at]
            settings = msgspec.structs.replace(settings, servers=servers)
        asked = [
            asyncio.create_task(ask(settings, name, kind, self._number(), self._port))
            for kind in (AAAA, A)
        ]
        try:
            done, left = await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
            if left:
                decided = any(_decides(each, is_a=each is asked[1]) for each in done)
                await asyncio.wait(left, timeout=OTHER_FAMILY_S if decided else None)
            answers = [each for each in asked if each.done()]
            found = [a for a in map(_answer, answers) if a is not None and a.addresses]
            if not found:
                for each in answers:
                    each.result()  # raises what kept it from an answer
            addresses = tuple(address for answer in found for address in answer.addresses)
            return addresses, min((answer.ttl_s for answer in found), default=0)
        finally:
            for each in asked:
                each.cancel()

    def _number(self) -> int:
        return int.from_bytes(self._token(2), "big")


def _answer(asked: asyncio.Task[Answer]) -> Answer | None:
    return None if asked.exception() else asked.result()


def _decides(asked: asyncio.Task[Answer], *, is_a: bool) -> bool:
    """Whether an answer makes the other one needless: an address, or that there is no such name.

    Some servers say that there is no such name when they are asked for an IPv6 address alone.
    """
    answer = _answer(asked)
    return answer is not None and (bool(answer.addresses) or (is_a and answer.code == NO_SUCH_NAME))
