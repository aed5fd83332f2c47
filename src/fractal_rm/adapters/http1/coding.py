"""Decodes bodies with a content coding (RFC 9110, 8.4).

Requests accept no coding, but some servers compress anyway.

gzip and deflate are decoded in slices. After each slice, other tasks of the event loop can run.
"""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Iterator

from fractal_rm.adapters.http1.framing import header_values
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import BadReply, CallTimedOut, ReplyTooLarge

# Limits of a slice. The input is small because after each gzip member zlib copies the input that
# is left.
MAX_INPUT_BYTES, MAX_OUTPUT_BYTES = 16 * 1024, 256 * 1024
MAX_MEMBERS = 10_000  # in a gzip body: even an empty member takes about 10 µs

_WBITS_GZIP, _WBITS_ZLIB, _WBITS_RAW = 31, 15, -15  # see zlib.decompressobj
# Values that are no coding: some servers send a charset, or an encoding of e-mail (RFC 2045, 6.2).
_NO_CODING = frozenset({
    "", "identity", "none", "utf-8", "utf8", "iso-8859-1", "7bit", "8bit", "binary",
})  # fmt: skip
_NAMES = {"gzip": "gzip", "x-gzip": "gzip", "deflate": "deflate"}  # RFC 9110, 8.4.1


class EncodedReply(Exception):
    """A reply whose body must still be decoded; ``coding`` is the content coding in its head."""

    def __init__(self, reply: HttpResponse, coding: str) -> None:
        super().__init__()
        self.reply = reply
        self.coding = coding

    async def decode(
        self, max_bytes: int, loop: asyncio.AbstractEventLoop, ends_s: float
    ) -> HttpResponse:
        """The decoded reply. Raises CallFailed.

        Decoding must end before ``ends_s`` on the loop's clock. If the status is 300 or above and
        the body cannot be decoded, the reply is returned unchanged, since its status is enough for
        the caller.
        """
        reply = self.reply
        try:
            body = await _decode_body(self, max_bytes, loop, ends_s)
        except (BadReply, ReplyTooLarge):
            if reply.status < 300:
                raise
            return reply
        return HttpResponse(reply.status, reply.head, body)


def encoded_reply(reply: HttpResponse) -> EncodedReply | None:
    """The reply as an EncodedReply, if its head names a coding of its body; else None."""
    if b"content-encoding" not in reply.head.lower() or not reply.body:
        return None
    listed = header_values("content-encoding", reply.head)
    codings = [coding for coding in listed if coding not in _NO_CODING]
    return EncodedReply(reply, ", ".join(codings)) if codings else None


async def _decode_body(
    encoded: EncodedReply, max_bytes: int, loop: asyncio.AbstractEventLoop, ends_s: float
) -> bytes:
    coding = _NAMES.get(encoded.coding)
    if coding is None:
        raise BadReply(f"content coding {encoded.coding[:40]!r} was not requested")
    parts: list[bytes] = []
    size = 0
    try:
        for number, part in enumerate(_decoded_slices(encoded.reply.body, coding)):
            if number > 0:
                await asyncio.sleep(0)  # let other tasks run between two slices
            size += len(part)
            if size > max_bytes:
                raise ReplyTooLarge(f"the answer is larger than {max_bytes} bytes when decoded")
            if loop.time() > ends_s:
                raise CallTimedOut("no complete answer within the time limit", sent=True)
            parts.append(part)
    except zlib.error as error:
        raise BadReply(f"the body of the answer is not {coding}: {error}") from None
    return b"".join(parts)


def _decoded_slices(body: bytes, coding: str) -> Iterator[bytes]:
    """The decoded body in slices. Raises zlib.error."""
    position = members = 0
    while position < len(body):
        members += 1
        if members > MAX_MEMBERS:
            raise zlib.error(f"it has more than {MAX_MEMBERS} members")
        stream = zlib.decompressobj(_wbits(body, coding))
        while not stream.eof:
            data = stream.unconsumed_tail
            if not data:
                data = body[position : position + MAX_INPUT_BYTES]
                position += len(data)
            part = stream.decompress(data, MAX_OUTPUT_BYTES)
            if not (data or part):
                raise zlib.error("it is truncated")
            yield part
        position -= len(stream.unused_data)
        if position < len(body) and coding != "gzip":  # gzip may have many members: RFC 1952, 2.2
            raise zlib.error("there is data after its end")


def _wbits(body: bytes, coding: str) -> int:
    """The argument ``wbits`` of zlib. Some servers omit deflate's header (RFC 1950, 2.2)."""
    if coding == "gzip":
        return _WBITS_GZIP
    has_header = body[0] & 0x0F == 8 and int.from_bytes(body[:2], "big") % 31 == 0
    return _WBITS_ZLIB if has_header else _WBITS_RAW
