"""Checks whether an IP address belongs to this machine now."""

from __future__ import annotations

import socket

from fractal_rm.domain.address import Address, read_address

_UNUSED_PORT = 9  # any number: nothing is sent to this port


def is_own_address(address: Address) -> bool:
    """Whether an address belongs to this machine now.

    The kernel is asked each time, since an address may move to another machine (VRRP).
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
    """Whether a socket can be bound to the address, and connected to the same address.

    A socket can be bound to a network address (10.1.0.0), but cannot be connected to it.
    """
    try:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            probe.bind((address, 0))
            probe.connect(probe.getsockname())
    except OSError:
        return False
    return True


def _is_own_ipv6(address: str, zone: int) -> bool:
    """Whether the kernel would send to ``address`` from the same address (RFC 6724, 5, rule 1).

    A test like `_is_own_ipv4` would prove nothing: with ``ip_nonlocal_bind``, a socket can be bound
    to any IPv6 address, and connected to it.
    """
    try:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as probe:
            probe.connect((address, _UNUSED_PORT, 0, zone))  # a UDP socket: this sends nothing
            return read_address(probe.getsockname()[0]) == read_address(address)
    except OSError:
        return False
