"""Reads and compares IP addresses and ranges. All forms of one address become the same form.

A socket for IPv6 and IPv4 shows an IPv4 client as ``::ffff:10.0.0.7`` (RFC 4291, 2.5.5.2). It shows
a link-local client with the zone of this machine's interface, such as ``fe80::1%eth0`` (RFC 4007).
The prefix ``::ffff:`` and the zone are removed.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from typing import Union

Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]
Network = Union[ipaddress.IPv4Network, ipaddress.IPv6Network]

# For each IP version, the shortest allowed prefix of a range, in bits. A range with a shorter
# prefix contains unknown machines. The widest private range of IPv4 is 10.0.0.0/8 (RFC 1918).
# Private ranges of IPv6 may have shorter prefixes (RFC 4193, RFC 4291).
SHORTEST_PREFIX = {4: 8, 6: 16}
_PRIVATE_6 = (ipaddress.IPv6Network("fc00::/7"), ipaddress.IPv6Network("fe80::/10"))
_IPV4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")

DEFAULT_PORTS = {"http": 80, "https": 443}

# A path whose characters are never changed by clients and proxies (RFC 3986, 2.3).
PLAIN_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+|/")
# uri-host [ ":" port ] (RFC 9110, 7.2). In brackets, a zone follows "%".
_AUTHORITY = re.compile(
    rb"(?:\[([0-9A-Fa-f:.]+)(?:%[^\]]*)?\]|([A-Za-z0-9._~!$&'()*+,;=%-]+))(?::([0-9]*))?"
)


def read_address(text: str) -> Address | None:
    """Parse an IP address and remove its zone. Return None if the text is not an address."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return None
    if address.version == 6 and address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return address


def read_network(text: str) -> Network:
    """Parse a range such as ``10.1.0.0/24``, or an address, which is a range of one machine.

    Raises ValueError with the reason.
    """
    try:
        network = ipaddress.ip_network(text, strict=False)
    except ValueError:
        network = None
    if network is None or "%" in text:
        raise ValueError(f'"{text}" is neither an address nor a range')
    machine = ipaddress.ip_interface(text).ip
    if machine.version == 6 and machine.ipv4_mapped is not None and network.prefixlen < 96:
        raise ValueError(f"{text} is the address of an IPv4 machine: write its range as IPv4")
    if machine != network.network_address:
        raise ValueError(f"{text} is one machine of {network}: write {network} or {machine}")
    if network.version == 6 and network.subnet_of(_IPV4_MAPPED):
        first = network.network_address.ipv4_mapped
        return ipaddress.ip_network(f"{first}/{network.prefixlen - 96}")
    return network


def is_authority(text: bytes) -> bool:
    """Whether a text is ``host[:port]`` as in a URL."""
    return _AUTHORITY.fullmatch(text) is not None


def host_of_authority(authority: bytes) -> str | None:
    """The normalized host of ``host[:port]``; None if the text does not have this form."""
    match = _AUTHORITY.fullmatch(authority)
    return normalized_host((match[1] or match[2]).decode("ascii")) if match else None


def normalized_host(host: str) -> str:
    """The only form of a host: a name in lower case without a final dot, or an IP address."""
    address = read_address(host)
    return host.lower().removesuffix(".") if address is None else str(address)


def is_link_local(text: str) -> bool:
    """Whether a text is an IPv6 address that is valid only on one link (RFC 4291, 2.5.6)."""
    address = read_address(text)
    return address is not None and address.version == 6 and address.is_link_local


def is_loopback(text: str) -> bool:
    """Whether a text is an address that only this machine can reach."""
    address = read_address(text)
    return address is not None and address.is_loopback


def is_listen_address(text: str) -> bool:
    """Whether a server can listen on the address in ``text``, such as 10.0.0.7 or 0.0.0.0."""
    address = read_address(text)
    return address is not None and not address.is_multicast


def is_within(address: Address, networks: Iterable[Network]) -> bool:
    """Whether an address is in one of the ranges."""
    return any(address in network for network in networks)


def too_wide_networks(networks: Iterable[Network]) -> list[Network]:
    """Join adjacent ranges, and return those that are wider than SHORTEST_PREFIX allows.

    Private ranges of IPv6 may have any width.
    """
    networks = list(networks)
    joined: list[Network] = [
        *ipaddress.collapse_addresses(n for n in networks if n.version == 4),
        *ipaddress.collapse_addresses(n for n in networks if n.version == 6),
    ]
    return [n for n in joined if n.prefixlen < SHORTEST_PREFIX[n.version] and not _is_private(n)]


def _is_private(network: Network) -> bool:
    return network.version == 6 and any(network.subnet_of(each) for each in _PRIVATE_6)


def read_origin(text: bytes) -> tuple[str, str, int] | None:
    """The protocol, host and port of an origin such as ``https://fractal.example`` (RFC 6454, 6.2).

    The host is normalized. Returns None if the text has another form.
    """
    scheme, separator, authority = text.partition(b"://")
    match = _AUTHORITY.fullmatch(authority) if separator else None
    protocol = scheme.lower().decode("latin-1")
    if match is None or protocol not in DEFAULT_PORTS:
        return None
    port = int(match[3][:6]) if match[3] else DEFAULT_PORTS[protocol]
    return protocol, normalized_host((match[1] or match[2]).decode("ascii")), port
