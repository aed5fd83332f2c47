"""The files that configure name lookup: hosts(5), resolv.conf(5), nsswitch.conf(5)."""

from __future__ import annotations

import ipaddress
import re
import socket
from functools import lru_cache
from pathlib import Path

import msgspec

from fractal_rm.config.regular_file import Version, file_version, read_regular

_MAX_SERVERS, _MAX_NDOTS, _MAX_ATTEMPTS = 3, 15, 5  # the C library's limits
_OWN_SOURCES = {"files", "dns"}  # sources that are read without the C library
_ACTIONS = re.compile(r"\[[^]]*\]")  # after a source, for example [!UNAVAIL=return]
_LOOPBACK = ("127.0.0.1", "::1")


class ResolverSettings(msgspec.Struct, frozen=True):
    """The content of resolv.conf. ``search``: domains that are appended to a name."""

    servers: tuple[str, ...] = ("127.0.0.1",)
    search: tuple[str, ...] = ()
    ndots: int = 1
    attempts: int = 2
    rotate: bool = False
    by_tcp: bool = False

    def candidates(self, name: str) -> tuple[str, ...]:
        """The absolute names to look up for a name, in order, until one has an address."""
        if name.endswith("."):
            return (name,)
        with_domains = tuple(f"{name}.{domain}" for domain in self.search)
        as_is_first = name.count(".") >= self.ndots
        return (name, *with_domains) if as_is_first else (*with_domains, name)


def read_settings(text: str) -> ResolverSettings:
    """Parse resolv.conf. Unknown lines and options are ignored, as by the C library."""
    servers: list[str] = []
    search: list[str] | None = None
    options: dict[str, str] = {}
    for line in text.splitlines():
        key, *values = line.split() or [""]
        if key == "nameserver" and values and is_address(values[0]):
            servers.append(values[0])
        elif key in ("search", "domain"):  # if there are several such lines, the last one is used
            search = [each.strip(".") for each in values if each.strip(".")]
        elif key == "options":
            parts = (each.partition(":") for each in values)
            options |= {option: value for option, _, value in parts}
    default = ResolverSettings()
    return ResolverSettings(
        servers=tuple(servers[:_MAX_SERVERS]) or default.servers,
        search=tuple(own_domain() if search is None else search),
        ndots=_bounded(options.get("ndots"), default.ndots, _MAX_NDOTS),
        attempts=max(1, _bounded(options.get("attempts"), default.attempts, _MAX_ATTEMPTS)),
        rotate="rotate" in options,
        by_tcp="use-vc" in options,
    )


def own_domain() -> list[str]:
    """The domain part of this machine's name: the search list if resolv.conf has no search line."""
    _, _, domain = socket.gethostname().partition(".")
    return [domain] if domain else []


def _bounded(text: str | None, default: int, maximum: int) -> int:
    return min(int(text[:9]), maximum) if text and text.isdecimal() else default


def addresses_in(hosts: str, name: str) -> tuple[str, ...]:
    """The addresses of a name in the text of a hosts file, in the order of the file.

    For ``localhost``, the loopback addresses are returned if the file does not have this name
    (RFC 6761, 6.3).
    """
    name = name.rstrip(".").lower()
    addresses: list[str] = []
    for line in hosts.splitlines():
        if name not in line.lower():  # a fast check, since a hosts file can be very long
            continue
        address, *names = line.partition("#")[0].split() or [""]
        if name in (each.lower() for each in names) and is_address(address):
            addresses.append(address)
    if not addresses and (name == "localhost" or name.endswith(".localhost")):
        return _LOOPBACK
    return tuple(dict.fromkeys(addresses))


def c_library_sources(nsswitch: str) -> frozenset[str]:
    """The sources of host names other than the hosts file and DNS, such as mDNS and LDAP."""
    for line in nsswitch.splitlines():
        key, colon, value = line.partition("#")[0].partition(":")
        if colon and key.strip() == "hosts":
            return frozenset(_ACTIONS.sub(" ", value).split()) - _OWN_SOURCES
    return frozenset()


@lru_cache(1024)  # called for each new connection, with few different hosts
def is_address(text: str) -> bool:
    """Whether a text is an IP address. An IPv6 address may have a zone after ``%``."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class WatchedFile:
    """A text file that may change at any time. A missing file counts as empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._version: Version | tuple[()] | None = None  # the version that was read last

    def read_if_changed(self) -> str | None:
        """The text of the file, or None if the file is unchanged since the last call.

        Raises OSError if the file cannot be read; the next call then tries again.
        """
        try:
            version = file_version(self._path.stat())
        except FileNotFoundError:
            version = ()
        if version == self._version:
            return None
        text = self.read()
        self._version = version
        return text

    def read(self) -> str:
        """The text of the file. Raises OSError if it cannot be read."""
        try:
            return read_regular(self._path).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
