"""Parses the replies on a connection, notes their content coding, and caches their heads."""

from __future__ import annotations

from collections.abc import Callable

from fractal_rm.adapters.http1.coding import EncodedReply, encoded_reply
from fractal_rm.adapters.http1.heads import HeadCache
from fractal_rm.adapters.http1.reply_parser import ReplyParser
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallFailed


class ReplyReader:
    """Reads the replies on a connection, one after the other.

    Calls ``on_reply`` with three arguments: a complete reply; whether the connection can be used
    again; the reply as an `EncodedReply` if it has a content coding, else None. ``has_received``: a
    part of the current reply has arrived. ``max_bytes`` limits the body of the current reply.
    """

    __slots__ = ("_heads", "_on_reply", "_parser", "has_received", "max_bytes")

    def __init__(
        self, heads: HeadCache, on_reply: Callable[[HttpResponse, bool, EncodedReply | None], None]
    ) -> None:
        self._heads = heads
        self._on_reply = on_reply
        self._parser = ReplyParser(self._on_parsed)
        self.has_received = False
        self.max_bytes = 0

    @property
    def in_body(self) -> bool:
        """Whether a head was received, and its body is not complete."""
        return self._parser.in_body

    def reply_so_far(self) -> HttpResponse:
        """The reply as received so far. Its head is the received text, without trailers."""
        return self._parser.reply_so_far()

    def parse(self, data: bytes) -> CallFailed | None:
        """Parse the next bytes of a reply. Returns the error if the reply is not valid."""
        self.has_received = True
        return self._parser.parse(data, self.max_bytes)

    def _on_parsed(self, reply: HttpResponse, keep_alive: bool) -> None:
        if keep_alive:
            self._heads.learn(reply)
        self._on_reply(reply, keep_alive, encoded_reply(reply))
