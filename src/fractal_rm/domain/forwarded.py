"""Who sends a request that a proxy has forwarded (RFC 7239; X-Forwarded-For).

Each proxy adds the address of its client at the end of a header. A client can send such a header,
too, so only the entries that trusted proxies have added are true. These are the last ones: the
client is the last address that is not a trusted proxy.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fractal_rm.domain.address import Address, read_address

# A request with one of these headers was forwarded by a proxy. Names are in lower case.
FORWARDING_HEADERS = frozenset({
    b"cf-connecting-ip", b"forwarded", b"true-client-ip", b"via", b"x-client-ip",
    b"x-cluster-client-ip", b"x-forwarded", b"x-forwarded-by", b"x-forwarded-for",
    b"x-forwarded-host", b"x-forwarded-port", b"x-forwarded-proto", b"x-forwarded-scheme",
    b"x-forwarded-server", b"x-forwarded-ssl", b"x-original-forwarded-for", b"x-real-ip",
})  # fmt: skip

# An address with or without a port. An IPv6 address with a port is in brackets (RFC 7239, 6).
_NODE = re.compile(
    r"(?:\[(?P<six>[0-9A-Fa-f:.]+)\]|(?P<four>[0-9.]+))(?::(?:[0-9]{1,5}|_[A-Za-z0-9._-]+))?"
    r"|(?P<bare>[0-9A-Fa-f:.]+)"
)
_WORD = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
# One pair of an element, up to the separator after it (RFC 7239, 4). Elements may be empty.
_PAIR = re.compile(
    rf'[ \t]*(?:(?P<name>{_WORD})=(?:"(?P<quoted>(?:[^"\\]|\\.)*)"|(?P<plain>{_WORD})))?'
    r"[ \t]*(?P<end>[;,]|$)"
)
_ESCAPED = re.compile(r"\\(.)")


def forwarded_client(
    forwarded: Sequence[bytes], forwarded_for: Sequence[bytes], is_proxy: Callable[[Address], bool]
) -> Address | None:
    """The address of the client of a request that came from a trusted proxy.

    ``forwarded`` and ``forwarded_for`` are the values of the headers Forwarded and X-Forwarded-For,
    in their order. Returns None if the address is not known: there is no header, an entry of a
    proxy is not an address (``unknown``, ``_hidden``), or the two headers differ. They differ if
    the proxy has written one of them, and the client the other one.
    """
    clients: set[Address | None] = set()
    if forwarded:
        clients.add(_client(_nodes_of_forwarded(_joined(forwarded)), is_proxy))
    if forwarded_for:
        clients.add(_client(_joined(forwarded_for).split(","), is_proxy))
    return clients.pop() if len(clients) == 1 else None


def _client(nodes: Sequence[str], is_proxy: Callable[[Address], bool]) -> Address | None:
    address = None
    for node in reversed(nodes):
        address = _address_of(node)
        if address is None or not is_proxy(address):
            break
    return address


def _address_of(node: str) -> Address | None:
    match = _NODE.fullmatch(node.strip(" \t"))
    return read_address(match["six"] or match["four"] or match["bare"]) if match else None


def _nodes_of_forwarded(text: str) -> list[str]:
    """The values of ``for``, one for each element; "" for an element without a single ``for``.

    If the text is not valid, the last value is "".
    """
    nodes: list[str] = []
    in_element: list[str] = []
    at = 0
    while match := _PAIR.match(text, at):
        if (match["name"] or "").lower() == "for":
            in_element.append(_ESCAPED.sub(r"\1", match["quoted"] or match["plain"] or ""))
        if match["end"] != ";":
            nodes.append(in_element[0] if len(in_element) == 1 else "")
            in_element = []
        if not match["end"]:
            return nodes
        at = match.end()
    return [*nodes, ""]


def _joined(values: Sequence[bytes]) -> str:
    """Several fields with the same name are one list (RFC 9110, 5.3)."""
    return ",".join(value.decode("latin-1") for value in values)
