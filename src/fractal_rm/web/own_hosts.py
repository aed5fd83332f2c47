"""Checks that a request is meant for this machine: its Host and its Origin (RFC 9110, 15.5.20).

Otherwise a web page could start runs: one whose name is given the address of this machine (DNS
rebinding), or one that sends a form here (CSRF).
"""

from __future__ import annotations

from collections.abc import Callable, Collection

from fractal_rm.config.model import Rest
from fractal_rm.domain.address import (
    Address,
    host_of_authority,
    is_loopback,
    read_address,
    read_origin,
)
from fractal_rm.domain.handoff.messages import CODE_PREFIX
from fractal_rm.web.head import Head, requested_host
from fractal_rm.web.own_address import is_own_address
from fractal_rm.web.problems import Problem

MAX_CACHED_HOSTS = 256  # how many accepted values of Host and Origin are cached


class OwnHosts:
    """The names and addresses of this machine.

    ``names`` returns the names of this node in nodes.conf; see `Config.own_names`.
    ``has_remote_clients`` returns whether any other machine may send requests.
    """

    def __init__(
        self,
        rest: Rest,
        names: Callable[[], Collection[str]],
        has_remote_clients: Callable[[], bool],
    ) -> None:
        self.public = rest.public_url
        self._names = names
        self._has_remote_clients = has_remote_clients
        self._accepted: set[bytes] = set()

    def forget(self) -> None:
        """Clear the cached names, because nodes.conf may have changed."""
        self._accepted.clear()

    def came_by_public_url(self, head: Head) -> bool:
        """Whether Host or Origin names ``rest.public_url``.

        If such a request comes from this machine, a proxy has forwarded it. The Host of a public
        URL on loopback does not count, because local programs use it, too.
        """
        public = self.public
        if public is None:
            return False
        if any(read_origin(origin) == public.key for origin in head.origins):
            return True
        host = requested_host(head)
        is_local_name = public.host == "localhost" or is_loopback(public.host)
        return host is not None and not is_local_name and self._is_public_host(host)

    def wrong_host(
        self, head: Head, own_address: Address | None, *, is_forwarded: bool
    ) -> Problem | None:
        """The problem if Host or Origin does not name this machine.

        Host may name ``rest.public_url``, too. If a proxy has forwarded the request, Origin must
        be ``rest.public_url``: for a page in a browser of another machine, localhost is that one.
        """
        host = requested_host(head)
        if (
            host is not None
            and host not in self._accepted  # a fast path
            and not (self._is_public_host(host) or self.is_own(host, own_address))
        ):
            return _wrong("Host", host, is_forwarded)
        for origin in head.origins:
            is_public = self.public is not None and read_origin(origin) == self.public.key
            rest = origin.partition(b"://")[2]
            if not is_public and (is_forwarded or not self.is_own(rest, own_address)):
                return _wrong("Origin", origin if is_forwarded else rest, is_forwarded)
        return None

    def _is_public_host(self, host: bytes) -> bool:
        """Whether ``host[:port]`` has the host of the public URL. Proxies often omit the port."""
        return self.public is not None and host_of_authority(host) == self.public.host

    def is_own(self, host: bytes, own_address: Address | None) -> bool:
        """Whether ``host[:port]`` names this machine.

        Names are cached. Addresses are not, because an address may move to another machine (VRRP).
        """
        if host in self._accepted:
            return True
        name = host_of_authority(host)
        if name is None:
            return False
        is_local_name = name == "localhost" or is_loopback(name)
        has_remote_clients = not is_local_name and self._has_remote_clients()
        if is_local_name or (has_remote_clients and name in self._names()):
            if len(self._accepted) < MAX_CACHED_HOSTS:
                self._accepted.add(host)
            return True
        address = read_address(name) if has_remote_clients else None
        return address is not None and (address == own_address or is_own_address(address))


def _wrong(field: str, value: bytes, is_forwarded: bool) -> Problem:
    reason = f'{field} names "{value[:60].decode("latin-1")}", which is not this machine'
    if is_forwarded:
        reason += "; if it is the address of a proxy, set rest.public_url"
    return Problem(CODE_PREFIX + "wrong-host", "Wrong host", 421, reason)
