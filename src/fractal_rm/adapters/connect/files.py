"""What the machine's files say of names: hosts(5), resolv.conf(5), nsswitch.conf(5)."""

from __future__ import annotations

import ipaddress
import re
import socket
from functools import lru_cache
from pathlib import Path

import msgspec

from fractal_rm.config.regular_file import Version, read_regular, version_of

_MOST_SERVERS, _MOST_NDOTS, _MOST_ATTEMPTS = 3, 15, 5  # as the C library's
_OURS = {"files", "dns"}  # sources of names that need no C library
_ACTIONS = re.compile(r"\[[^]]*\]")  # behind a source, as [!UNAVAIL=return]
_LOOPBACK = ("127.0.0.1", "::1")


class Settings(msgspec.Struct, frozen=True):
    """Of resolv.conf. ``search`` has domains that are tried behind a name."""

    servers: tuple[str, ...] = ("127.0.0.1",)
    search: tuple[str, ...] = ()
    ndots: int = 1
    attempts: int = 2
    rotate: bool = False
    by_tcp: bool = False

    def candidates(self, name: str) -> tuple[str, ...]:
        """The absolute names that a name may stand for, in the order in which they are tried."""
        if name.endswith("."):
            return (name,)
        longer = tuple(f"{name}.{domain}" for domain in self.search)
        return (name, *longer) if name.count(".") >= self.ndots else (*longer, name)


def read_settings(text: str) -> Settings:
    """Read resolv.conf; what is not known there is passed over, as the C library does."""
    servers: list[str] = []
    search: list[str] | None = None
    options: dict[str, str] = {}
    for line in text.splitlines():
        key, *values = line.split() or [""]
        if key == "nameserver" and values and is_address(values[0]):
            servers.append(values[0])
        elif key in ("search", "domain"):  # the last one counts
            search = [each.strip(".") for each in values if each.strip(".")]
        elif key == "options":
            options |= {k: v for k, _, v in (each.partition(":") for each in values)}
    return Settings(
        servers=tuple(servers[:_MOST_SERVERS]) or Settings().servers,
        search=tuple(own_domain() if search is None else search),
        ndots=_bounded(options.get("ndots"), Settings().ndots, _MOST_NDOTS),
        attempts=max(1, _bounded(options.get("attempts"), Settings().attempts, _MOST_ATTEMPTS)),
        rotate="rotate" in options,
        by_tcp="use-vc" in options,
    )


def own_domain() -> list[str]:
    """The domain in this machine's name, if it has one: searched where resolv.conf says none."""
    domain = socket.gethostname().partition(".")[2]
    return [domain] if domain else []


def _bounded(text: str | None, default: int, most: int) -> int:
    return min(int(text[:9]), most) if text and text.isdecimal() else default


def addresses_in(hosts: str, name: str) -> tuple[str, ...]:
    """The addresses that the text of a hosts file has for a name, in its order.

    ``localhost`` is loopback also where the file does not have it (RFC 6761, 6.3).
    """
    name = name.rstrip(".").lower()
    found: list[str] = []
    for line in hosts.splitlines():
        if name not in line.lower():  # files that block half of the net have 100,000 lines
            continue
        address, *names = line.partition("#")[0].split() or [""]
        if name in (each.lower() for each in names) and is_address(address):
            found.append(address)
    if not found and (name == "localhost" or name.endswith(".localhost")):
        return _LOOPBACK
    return tuple(dict.fromkeys(found))


def other_sources(nsswitch: str) -> frozenset[str]:
    """The sources of host names beside the hosts file and DNS: mDNS, LDAP, what systemd adds."""
    for line in nsswitch.splitlines():
        key, colon, rest = line.partition("#")[0].partition(":")
        if colon and key.strip() == "hosts":
            return frozenset(_ACTIONS.sub(" ", rest).split()) - _OURS
    return frozenset()


@lru_cache(1024)  # each new connection asks for one of a few
def is_address(text: str) -> bool:
    """Whether a text is an IP address; an IPv6 one may have a zone behind ``%``."""
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


class Watched:
    """A text file that may be replaced or written at any time; one that is missing is empty."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: Version | tuple[()] | None = None

    def fresh(self) -> str | None:
        """Its text, where it is not as it was at the last call; None: it is.

        Raises OSError where it cannot be read; the next call tries again.
        """
        try:
            seen = version_of(self._path.stat())
        except FileNotFoundError:
            seen = ()
        if seen == self._seen:
            return None
        text = self.text()
        self._seen = seen
        return text

    def text(self) -> str:
        """What is in it now. Raises OSError where it cannot be read."""
        try:
            return read_regular(self._path).decode("utf-8", "replace")
        except FileNotFoundError:
            return ""
