"""Checks request heads (RFC 9112).

The parser has already refused heads that it cannot parse, such as a head with two lengths, with a
folded line, or with a line that ends in LF alone.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from urllib.parse import unquote_to_bytes

import msgspec

from fractal_rm.domain.address import is_authority
from fractal_rm.domain.forwarded import FORWARDING_HEADERS
from fractal_rm.web.problems import Problem

MAX_HEAD_BYTES = 16 * 1024
HEAD_TOO_LARGE = Problem("about:blank", "The header section is too large", 431,
                         f"at most {MAX_HEAD_BYTES} bytes are read")  # fmt: skip

_ABSOLUTE = {
    scheme: re.compile(rb"(?i)%b://([^/?#]*)([^#]*)" % scheme.encode())
    for scheme in ("http", "https")
}


class Head(msgspec.Struct):
    """A request line, and the header fields that this module checks.

    ``size`` is the size of the head in bytes. Spaces around values do not count. ``scheme`` is
    ``http`` or ``https``. ``is_forwarded``: the head has a header of a proxy. ``forwarded`` and
    ``forwarded_for`` are the values of Forwarded and X-Forwarded-For. ``accepts_page``: it is from
    a browser that shows a page.
    """

    method: bytes
    target: bytes
    version: str
    size: int
    hosts: list[bytes]
    origins: list[bytes]
    codings: list[bytes]
    authorizations: list[bytes]
    cookies: list[bytes]
    scheme: str = "http"
    is_forwarded: bool = False
    forwarded: list[bytes] = []  # msgspec copies the list
    forwarded_for: list[bytes] = []
    accepts_page: bool = False


def is_for_page(accept: bytes) -> bool:
    """Whether a value of Accept is that of a browser that shows a page."""
    return b"text/html" in accept.lower()


def accepts_page(fields: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request with these header fields comes from a browser that shows a page."""
    return any(name == b"accept" and is_for_page(value) for name, value in fields)


def read_head(  # noqa: C901 - one for each header field
    method: bytes,
    target: bytes,
    version: str,
    fields: list[tuple[bytes, bytes]],
    scheme: str = "http",
) -> Head:
    """Make a `Head` from a request line and header fields, whose names must be in lower case."""
    head = Head(method, target, version, len(target) + size_of(fields), [], [], [], [], [], scheme)
    for name, value in fields:
        if name == b"host":
            head.hosts.append(value)
        elif name == b"origin":
            head.origins.append(value)
        elif name == b"transfer-encoding":
            head.codings.append(value)
        elif name == b"authorization":
            head.authorizations.append(value)
        elif name == b"cookie":
            head.cookies.append(value)
        elif name == b"accept":
            head.accepts_page = head.accepts_page or is_for_page(value)
        elif name in FORWARDING_HEADERS:
            head.is_forwarded = True
            if name == b"forwarded":
                head.forwarded.append(value)
            elif name == b"x-forwarded-for":
                head.forwarded_for.append(value)
    return head


def malformed(detail: str) -> Problem:
    """Return the problem for a request that is not valid HTTP. The connection must be closed."""
    return Problem("about:blank", "The request is not valid HTTP", 400, detail)


def size_of(fields: list[tuple[bytes, bytes]]) -> int:
    """Return the size of fields in bytes. Each field has a colon, a space and CRLF."""
    return sum(map(len, itertools.chain.from_iterable(fields))) + 4 * len(fields)


def fault_in(head: Head) -> Problem | None:
    """Return the problem if the head is invalid, otherwise None. `Access` checks the client."""
    if head.size > MAX_HEAD_BYTES:
        return HEAD_TOO_LARGE
    if head.version not in ("1.1", "1.0"):
        return Problem(
            "about:blank", "This version of HTTP is not supported", 505, "use HTTP/1.1 or HTTP/1.0"
        )
    if head.method == b"CONNECT":
        return Problem("about:blank", "This method is not implemented", 501, "CONNECT")
    if len(head.authorizations) > 1:
        return malformed("there is more than one Authorization header")
    return _fault_in_target(head) or _fault_in_codings(head) or _fault_in_host(head)


def requested_host(head: Head) -> bytes | None:
    """Return the host of a request. An absolute target overrides Host (RFC 9112, 3.2.2)."""
    if not head.target.startswith(b"/"):
        absolute = _ABSOLUTE[head.scheme].fullmatch(head.target)
        if absolute:
            return absolute[1]
    return head.hosts[0] if head.hosts else None


def origin_form(head: Head) -> bytes:
    """Return the target as a path and a query."""
    if head.target.startswith(b"/"):
        return head.target
    absolute = _ABSOLUTE[head.scheme].fullmatch(head.target)
    if absolute is None:
        return head.target  # it is "*"
    return absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]


def requested_path(head: Head) -> bytes:
    """Return the path of the target, percent-decoded."""
    return unquote_to_bytes(origin_form(head).partition(b"?")[0])


def _fault_in_target(head: Head) -> Problem | None:
    """Check that the target is a path, a URL, or "*" with OPTIONS (RFC 9112, 3.2)."""
    target = head.target
    if not target.isascii() or b"#" in target:
        return malformed("the target contains an invalid character")
    if target.startswith(b"/") or (target == b"*" and head.method == b"OPTIONS"):
        return None
    if _ABSOLUTE[head.scheme].fullmatch(target):
        return None
    return malformed(f"the target is neither a path nor an {head.scheme} URL")


def _fault_in_codings(head: Head) -> Problem | None:
    """Check that the transfer codings define where the body ends (RFC 9112, 6.1)."""
    if not head.codings:
        return None
    if head.version == "1.0":
        return malformed("HTTP/1.0 has no Transfer-Encoding")
    codings = [coding.strip().lower() for coding in b",".join(head.codings).split(b",")]
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        return malformed("chunked must be the last transfer coding, and must occur only once")
    if len(codings) > 1:
        others = b", ".join(codings[:-1])[:60].decode("latin-1")
        return Problem("about:blank", "This transfer coding is not implemented", 501, others)
    return None


def _fault_in_host(head: Head) -> Problem | None:
    """Check that there is one valid Host (RFC 9112, 3.2). HTTP/1.0 may leave it out."""
    if len(head.hosts) > 1:
        return malformed("there is more than one Host header")
    if not head.hosts:
        return None if head.version == "1.0" else malformed("there is no Host header")
    requested = requested_host(head)
    if requested is None or not is_authority(requested) or not is_authority(head.hosts[0]):
        return malformed("the host of the request is not valid")
    return None
