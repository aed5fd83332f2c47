"""Checks whether an IP address belongs to this machine now."""

from __future__ import annotations

import socket

from fractal_rm.domain.address import Address, read_address

_UNUSED_PORT = 9  # any port: nothing is sent to it


def is_own_address(address: Address) -> bool:
    """Whether an address belongs to this machine now.

    The answer is not cached, because an address may move to another machine (VRRP).
    """
    if address.is_unspecified or address.is_multicast:
        return False
    try:
        if address.version == 4:
            return _is_own_ipv4(str(address))
        # A link-local address may belong to any interface.
        zones = [index for index, _ in socket.if_nameindex()] if address.is_link_local else [0]
        return any(_is_own_ipv6(str(address), zone) for zone in zones)
    except OSError:  # the interfaces cannot be listed
        return False


def _is_own_ipv4(address: str) -> bool:
    """Whether a socket can be bound to ``address``, and also connected to it.

    A socket can be bound to the address of a network (10.1.0.0), but not connected to it.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
            probe.connect(probe.getsockname())
    except OSError:
        return False
    return True


def _is_own_ipv6(address: str, zone: int) -> bool:
    """Whether ``address`` is also the source address of packets to it (RFC 6724, 5, rule 1).

    The test of `_is_own_ipv4` would prove nothing: with ``ip_nonlocal_bind``, a socket can be bound
    and connected to any IPv6 address.
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _UNUSED_PORT, 0, zone))  # sends nothing, as this is UDP
            return read_address(probe.getsockname()[0]) == read_address(address)
    except OSError:
        return False
