"""Checks of the head and the end of an answer (RFC 9112, 5.2 and 6) that the parser does not make.

docs/reference/answers.md lists the answers that are refused.
"""

from __future__ import annotations

import re

from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import BadReply, ReplyTooLarge

_FOLD = re.compile(rb"[ \t]*\r\n[ \t]+")
_NO_CONTENT = 204
# The limit of the size of a head, and of the received bytes between two parts of the body.
MAX_OVERHEAD_BYTES = 64 * 1024


def header_values(name: str, head: bytes) -> list[str]:
    """The values of all headers with a name, separated at commas (RFC 9110, 5.6.1), in lower case.

    Empty values are included.
    """
    lines = (line.partition(":") for line in head.decode("latin-1").lower().split("\r\n"))
    values = (value for field_name, _, value in lines if field_name == name)
    return [member.strip(" \t") for value in values for member in value.split(",")]


def check_codings(codings: list[str]) -> None:
    """Raise BadReply for a transfer coding other than chunked."""
    if codings not in ([], ["chunked"]):
        raise BadReply(f"transfer coding {', '.join(codings)[:40]!r} was not requested")


def check_overhead(size: int) -> None:
    """Raise BadReply if ``size`` is greater than MAX_OVERHEAD_BYTES."""
    if size > MAX_OVERHEAD_BYTES:
        raise BadReply(f"the answer has more than {MAX_OVERHEAD_BYTES} bytes of headers")


def check_head(head: bytes, max_bytes: int) -> None:
    """Check a head whose body is still to come.

    Raises BadReply for a head that is too long or a transfer coding other than chunked;
    ReplyTooLarge for a Content-Length that is too large. A Content-Length is ignored if there is a
    transfer coding (RFC 9112, 6.3).
    """
    check_overhead(len(head))
    codings = header_values("transfer-encoding", head)
    check_codings(codings)
    if not codings and any(
        int(length) > max_bytes for length in header_values("content-length", head)
    ):
        raise too_large(max_bytes)


def too_large(max_bytes: int) -> ReplyTooLarge:
    """The error for an answer that is larger than ``max_bytes``."""
    return ReplyTooLarge(f"the answer is larger than {max_bytes} bytes")


def is_delimited(head: bytes) -> bool:
    """Whether the end of the body is defined by a length or by chunks (RFC 9112, 6.3)."""
    return bool(header_values("content-length", head) or header_values("transfer-encoding", head))


def is_end_ambiguous(reply: HttpResponse, version: str) -> bool:
    """Whether the end of the reply is ambiguous. If so, the connection must be closed.

    The end is ambiguous for a reply with both a Content-Length and chunks, for chunks in HTTP/1.0
    (RFC 9112, 6.1 and 6.3), and for a 204 with a body.
    """
    length, chunked = (
        header_values("content-length", reply.head),
        header_values("transfer-encoding", reply.head),
    )
    if reply.status == _NO_CONTENT:
        return bool(chunked) or length not in ([], ["0"])
    return bool(chunked) and (bool(length) or version != "1.1")


def is_folded(head: bytes) -> bool:
    """Whether a header, other than the first one, continues in a line that begins with a space."""
    _, _, fields = head.partition(b"\r\n")
    return not fields.startswith((b" ", b"\t")) and _FOLD.search(fields) is not None


def unfolded(head: bytes) -> bytes:
    """The head with each header on one line (RFC 9112, 5.2)."""
    return _FOLD.sub(b" ", head)
