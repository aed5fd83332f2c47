"""What a request says before its body, and what of that cannot be served (RFC 9112).

The parser has refused by then what cannot be read at all, such as two lengths, a folded line or a
line that ends in LF alone.
"""

from __future__ import annotations

import itertools
import re
from urllib.parse import unquote_to_bytes

import msgspec

from fractal_rm.domain.address import is_authority
from fractal_rm.web.problems import Problem

MAX_HEAD_BYTES = 16 * 1024
HEAD_TOO_LARGE = Problem("about:blank", "The header section is too large", 431,
                         f"at most {MAX_HEAD_BYTES} bytes are read")  # fmt: skip

_ABSOLUTE = re.compile(rb"(?i)http://([^/?#]*)([^#]*)")


class Head(msgspec.Struct):
    """``size`` is in bytes, without spaces around values, however the segments fell."""

    method: bytes
    target: bytes
    version: str
    size: int
    hosts: list[bytes]
    origins: list[bytes]
    codings: list[bytes]


def read_head(
    method: bytes, target: bytes, version: str, fields: list[tuple[bytes, bytes]]
) -> Head:
    """Gather what is looked at; names of fields are in lower case."""
    head = Head(method, target, version, len(target) + size_of(fields), [], [], [])
    for name, value in fields:
        if name == b"host":
            head.hosts.append(value)
        elif name == b"origin":
            head.origins.append(value)
        elif name == b"transfer-encoding":
            head.codings.append(value)
    return head


def malformed(detail: str) -> Problem:
    """Answered to what cannot be read; the connection is of no more use."""
    return Problem("about:blank", "The request is not HTTP as it is read here", 400, detail)


def size_of(fields: list[tuple[bytes, bytes]]) -> int:
    """How many bytes fields take, each with a colon, a space and CRLF."""
    return sum(map(len, itertools.chain.from_iterable(fields))) + 4 * len(fields)


def fault_in(head: Head) -> Problem | None:
    """Why a request cannot be served, whoever asks."""
    if head.size > MAX_HEAD_BYTES:
        return HEAD_TOO_LARGE
    if head.version not in ("1.1", "1.0"):
        return Problem("about:blank", "This version of HTTP is not spoken", 505, "1.1 and 1.0 are")
    if head.method == b"CONNECT":
        return Problem("about:blank", "This method is not implemented", 501, "CONNECT")
    return _fault_in_target(head) or _fault_in_codings(head) or _fault_in_host(head)


def asked_host(head: Head) -> bytes | None:
    """Whom a request is for. A target in absolute form says so itself (RFC 9112, 3.2.2)."""
    if not head.target.startswith(b"/"):
        absolute = _ABSOLUTE.fullmatch(head.target)
        if absolute:
            return absolute[1]
    return head.hosts[0] if head.hosts else None


def origin_form(head: Head) -> bytes:
    """The target as a path and a query."""
    if head.target.startswith(b"/"):
        return head.target
    absolute = _ABSOLUTE.fullmatch(head.target)
    if absolute is None:
        return head.target  # "*"
    return absolute[2] if absolute[2].startswith(b"/") else b"/" + absolute[2]


def asked_path(head: Head) -> bytes:
    """The path of the target, percent-decoded."""
    return unquote_to_bytes(origin_form(head).partition(b"?")[0])


def _fault_in_target(head: Head) -> Problem | None:
    """RFC 9112, 3.2: what is asked for is a path, a URL, or, by OPTIONS, the server itself."""
    target = head.target
    if not target.isascii() or b"#" in target:
        return malformed("the target holds a character that no target has")
    if target.startswith(b"/") or (target == b"*" and head.method == b"OPTIONS"):
        return None
    if _ABSOLUTE.fullmatch(target):
        return None
    return malformed("the target is neither a path nor an http URL")


def _fault_in_codings(head: Head) -> Problem | None:
    """RFC 9112, 6.1: where the body ends must be certain."""
    if not head.codings:
        return None
    if head.version == "1.0":
        return malformed("HTTP/1.0 has no Transfer-Encoding")
    codings = [coding.strip().lower() for coding in b",".join(head.codings).split(b",")]
    if codings[-1] != b"chunked" or codings.count(b"chunked") > 1:
        return malformed("the last transfer coding must be chunked, and no other one")
    if len(codings) > 1:
        said = b", ".join(codings[:-1])[:60].decode("latin-1")
        return Problem("about:blank", "This transfer coding is not implemented", 501, said)
    return None


def _fault_in_host(head: Head) -> Problem | None:
    """RFC 9112, 3.2: one valid Host, which HTTP/1.0 may leave out."""
    if len(head.hosts) > 1:
        return malformed("there is more than one Host")
    if not head.hosts:
        return None if head.version == "1.0" else malformed("there is no Host")
    asked = asked_host(head)
    if asked is None or not is_authority(asked) or not is_authority(head.hosts[0]):
        return malformed("the host is not one that a URL can have")
    return None
