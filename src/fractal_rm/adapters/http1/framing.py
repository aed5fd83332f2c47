"""Where an answer ends, and what its head says of that (RFC 9112, 5.2 and 6).

The parser reads, and refuses what it cannot. This is what is left to decide. What is refused is
listed in docs/reference/answers.md.
"""

from __future__ import annotations

import re

from fractal_rm.domain.call import Reply
from fractal_rm.domain.call_errors import BadReply, ReplyTooLarge

_FOLD = re.compile(rb"[ \t]*\r\n[ \t]+")
_NO_CONTENT = 204
MAX_BARE_BYTES = 64 * 1024  # of a head, and of what comes in a row without a byte of the body


def all_of(name: str, head: bytes) -> list[str]:
    """The members of a list in all header lines of a name (RFC 9110, 5.6.1), in lower case.

    Empty ones too.
    """
    lines = (line.partition(":") for line in head.decode("latin-1").lower().split("\r\n"))
    values = (value for named, _, value in lines if named == name)
    return [member.strip(" \t") for value in values for member in value.split(",")]


def check_codings(codings: list[str]) -> None:
    """Raise BadReply for transfer codings other than chunks."""
    if codings not in ([], ["chunked"]):
        raise BadReply(f"transfer coding {', '.join(codings)[:40]!r} was not asked for")


def check_bare(size: int) -> None:
    """Raise BadReply for more than MAX_BARE_BYTES."""
    if size > MAX_BARE_BYTES:
        raise BadReply(f"more than {MAX_BARE_BYTES} bytes of headers")


def check_announced(head: bytes, max_bytes: int) -> None:
    """Raise BadReply for too long a head or other transfer codings than chunks.

    Raise ReplyTooLarge for too long a body. Chunks override a Content-Length (RFC 9112, 6.3).
    """
    check_bare(len(head))
    codings = all_of("transfer-encoding", head)
    check_codings(codings)
    if not codings and any(int(length) > max_bytes for length in all_of("content-length", head)):
        raise too_large(max_bytes)


def too_large(max_bytes: int) -> ReplyTooLarge:
    """What is raised for an answer over its bound."""
    return ReplyTooLarge(f"the answer is larger than {max_bytes} bytes")


def is_delimited(head: bytes) -> bool:
    """Whether the end of the connection does not end the body (RFC 9112, 6.3)."""
    return bool(all_of("content-length", head) or all_of("transfer-encoding", head))


def is_doubtful(reply: Reply, version: str) -> bool:
    """Whether its sender may mean another end than ours, so that the connection is not kept.

    A Content-Length beside chunks, chunks in HTTP/1.0 (RFC 9112, 6.1 and 6.3), a body with a 204.
    """
    length, chunked = all_of("content-length", reply.head), all_of("transfer-encoding", reply.head)
    if reply.status == _NO_CONTENT:
        return bool(chunked) or length not in ([], ["0"])
    return bool(chunked) and (bool(length) or version != "1.1")


def is_folded(head: bytes) -> bool:
    """Whether a header goes on in a line that begins with a space, other than in the first line."""
    fields = head.partition(b"\r\n")[2]
    return fields[:1] not in (b" ", b"\t") and _FOLD.search(fields) is not None


def unfolded(head: bytes) -> bytes:
    """The same head with each header in one line (RFC 9112, 5.2)."""
    return _FOLD.sub(b" ", head)
