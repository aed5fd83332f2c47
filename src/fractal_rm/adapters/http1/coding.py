"""Content codings (RFC 9110, 8.4): an answer that is packed although nobody asked for it.

gzip and deflate are unpacked, a slice at a time, so that nobody else waits for it.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator

from fractal_rm.adapters.http1.framing import all_of
from fractal_rm.domain.call import Reply
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ReplyTooLarge

# At most, of a slice. What is taken is copied at the end of each part of a gzip: there may be many.
TAKEN_BYTES, GIVEN_BYTES = 16 * 1024, 256 * 1024
MOST_PARTS = 10_000  # of a gzip: each costs some 10 µs, however little is in it

_WBITS_GZIP, _WBITS_ZLIB, _WBITS_RAW = 31, 15, -15  # see zlib.decompressobj
# Servers that mean a charset, or an encoding of mail (RFC 2045, 6.2), put its name there.
_CHANGE_NOTHING = frozenset({
    "", "identity", "none", "utf-8", "utf8", "iso-8859-1", "7bit", "8bit", "binary",
})  # fmt: skip
_NAMES = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}  # RFC 9110, 8.4.1


class Packed(Exception):
    """A reply whose body is still in content codings; its head names them as ``coding``."""

    def __init__(self, reply: Reply, coding: str) -> None:
        super().__init__()
        self.reply = reply
        self.coding = coding

    async def unpacked(
        self, max_bytes: int, loop: asyncio.AbstractEventLoop, ends_s: float
    ) -> Reply:
        """The reply with its body unpacked; ``ends_s`` is of the loop's clock. Raises CallFailed.

        A status of 300 and above says what it says whatever its body is: one that cannot be
        unpacked stays as it came.
        """
        reply = self.reply
        try:
            body = await _unpacked_body(self, max_bytes, loop, ends_s)
        except (BadReply, ReplyTooLarge):
            if reply.status < 300:
                raise
            return reply
        return Reply(reply.status, reply.head, body)


def packed_in(reply: Reply) -> Packed | None:
    """The reply as a packed one, where its head names a coding of its body."""
    if b"content-encoding" not in reply.head.lower() or not reply.body:
        return None
    listed = all_of("content-encoding", reply.head)
    codings = [coding for coding in listed if coding not in _CHANGE_NOTHING]
    return Packed(reply, ", ".join(codings)) if codings else None


async def _unpacked_body(
    packed: Packed, max_bytes: int, loop: asyncio.AbstractEventLoop, ends_s: float
) -> bytes:
    coding = _NAMES.get(packed.coding)
    if coding is None:
        raise BadReply(f"content coding {packed.coding[:40]!r} was not asked for")
    parts: list[bytes] = []
    size = 0
    try:
        for number, part in enumerate(_slices(packed.reply.body, coding)):
            if number:
                await asyncio.sleep(0)
            size += len(part)
            if size > max_bytes:
                raise ReplyTooLarge(f"the answer is larger than {max_bytes} bytes when unpacked")
            if loop.time() > ends_s:
                raise CallTimedOut("no whole answer within the time limit", sent=True)
            parts.append(part)
    except zlib.error as error:
        raise BadReply(f"the body of the answer is not {coding}: {error}") from None
    return b"".join(parts)


def _slices(body: bytes, coding: str) -> Iterator[bytes]:
    """What a body unpacks to. Raises zlib.error."""
    at = parts = 0
    while at < len(body):
        parts += 1
        if parts > MOST_PARTS:
            raise zlib.error(f"it has more than {MOST_PARTS} parts")
        stream = zlib.decompressobj(_wbits(body, coding))
        while not stream.eof:
            taken = stream.unconsumed_tail
            if not taken:
                taken = body[at : at + TAKEN_BYTES]
                at += len(taken)
            part = stream.decompress(taken, GIVEN_BYTES)
            if not (taken or part):
                raise zlib.error("it ends early")
            yield part
        at -= len(stream.unused_data)
        if at < len(body) and coding != "gzip":  # which may be several of them: RFC 1952, 2.2
            raise zlib.error("something follows its end")


def _wbits(body: bytes, coding: str) -> int:
    """A deflate has a frame (RFC 1950, 2.2), which some servers leave out."""
    if coding == "gzip":
        return _WBITS_GZIP
    framed = body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _WBITS_ZLIB if framed else _WBITS_RAW
