"""Parses a reply, and checks it against limits while it arrives.

head ──> body ──complete──> head of the next reply
           └──invalid, too large──> an error; the connection is then closed
"""

from __future__ import annotations

from collections.abc import Callable

import httptools

from fractal_rm.adapters.http1.framing import (
    check_codings,
    check_head,
    check_overhead,
    header_values,
    is_end_ambiguous,
    is_folded,
    too_large,
    unfolded,
)
from fractal_rm.adapters.http1.heads import END_OF_HEAD
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import BadReply, CallFailed

MAX_UNFOLDED = 8  # heads with folded headers, of a reply with its interim replies (1xx)
_FIRST_STATUS, _FIRST_FINAL_STATUS, _NO_CONTENT = 100, 200, 204


class ReplyParser:
    """Parses the replies on a connection.

    Calls ``on_reply`` with each complete reply, and with True if the connection can be used again.
    """

    __slots__ = (
        "_body", "_chunked", "_complete", "_folded", "_head", "_max_bytes", "_on_reply",
        "_overhead_bytes", "_parser", "_unfolded_heads", "in_body",
    )  # fmt: skip

    def __init__(self, on_reply: Callable[[HttpResponse, bool], None]) -> None:
        self._on_reply = on_reply
        self._parser = self._new_parser()
        self._complete = False
        self._max_bytes = self._overhead_bytes = self._unfolded_heads = 0
        self._expect_reply()

    def parse(self, data: bytes, max_bytes: int) -> CallFailed | None:
        """Parse the next bytes of a reply. Returns an error if the reply is not valid.

        ``max_bytes`` limits the size of the body.
        """
        self._max_bytes = max_bytes
        self._complete = False
        in_head, body_bytes_before = not self.in_body, len(self._body)
        if in_head:
            self._head += data
        error = None if self._folded else self._feed(data)
        if self._folded:
            return self._unfold(len(data))
        if error is None and not self._complete:
            has_body_bytes = len(self._body) > body_bytes_before
            overhead_bytes = 0 if has_body_bytes else len(data)
            return self._check_part(overhead_bytes, in_head=in_head)
        return error

    def reply_so_far(self) -> HttpResponse:
        """The reply as received so far. Its head is the received text, without trailers."""
        head, _, _ = self._head.lstrip(b"\r\n").partition(END_OF_HEAD)
        return HttpResponse(self._parser.get_status_code(), head, bytes(self._body))

    def _new_parser(self) -> httptools.HttpResponseParser:
        parser = httptools.HttpResponseParser(self)
        # Accept chunks with a Content-Length, and then close the connection: RFC 9112, 6.3.
        parser.set_dangerous_leniencies(lenient_chunked_length=True)
        return parser

    def _expect_reply(self) -> None:
        self._head: bytes = b""
        self._body: bytes | bytearray = b""
        self.in_body = self._chunked = self._folded = False

    def _feed(self, data: bytes) -> CallFailed | None:
        """Give data to the parser. Returns the error if the data is not a valid answer.

        For a folded header, sets ``_folded`` instead. Do not call this in an ``except`` block: the
        error of a callback is read from the ``__context__`` of the parser's error.
        """
        try:
            self._parser.feed_data(data)
        except CallFailed as error:
            return error
        except httptools.HttpParserCallbackError as error:
            cause = error.__context__
            return cause if isinstance(cause, CallFailed) else BadReply(f"the answer: {cause!r}")
        except httptools.HttpParserUpgrade:
            return BadReply("the server switches to another protocol")
        except httptools.HttpParserError as error:
            head, _, _ = self._head.lstrip(b"\r\n").partition(END_OF_HEAD)
            self._folded = not self._complete and not self.in_body and is_folded(head)
            return None if self._folded else BadReply(f"the answer is not HTTP/1.1: {error}")
        return None

    def _check_part(self, overhead_bytes: int, *, in_head: bool) -> CallFailed | None:
        """Check the limits of a reply that is not complete yet.

        ``max_bytes`` limits the body. This method limits the received bytes of everything else:
        heads, 1xx replies, chunk extensions, trailers. Adding up the lengths of parsed headers is
        not enough: the parser reports a header only when its line is complete.
        """
        if overhead_bytes == 0:  # a part of the body has arrived
            self._overhead_bytes = 0
        self._overhead_bytes += overhead_bytes
        try:
            check_overhead(self._overhead_bytes)
            if in_head and self.in_body:
                check_head(self.reply_so_far().head, self._max_bytes)
        except CallFailed as error:
            return error
        return None

    def _unfold(self, new_bytes: int) -> CallFailed | None:
        """Unfold the head and parse it again: the parser refuses folded headers (RFC 9112, 5.2).

        If the head is not complete, do nothing until the rest arrives.
        """
        head, end, body = self._head.lstrip(b"\r\n").partition(END_OF_HEAD)
        if not end:
            return self._check_part(new_bytes, in_head=True)
        self._unfolded_heads += 1
        if self._unfolded_heads > MAX_UNFOLDED:
            return BadReply(f"more than {MAX_UNFOLDED} heads with folded headers")
        self._expect_reply()
        self._overhead_bytes = 0
        self._parser = self._new_parser()
        return self.parse(unfolded(head) + end + body, self._max_bytes)

    # --- called by httptools ------------------------------------------------------------------

    def on_message_begin(self) -> None:
        """Refuse a second reply in the same data."""
        if self._complete:
            raise BadReply("a second answer to one request")

    def on_headers_complete(self) -> None:
        """Note that the body follows."""
        self.in_body = True

    def on_chunk_header(self) -> None:
        """Note that the body is chunked."""
        self._chunked = True

    def on_body(self, data: bytes) -> None:
        """Add a part of the body."""
        if self._body:
            # A list of many small pieces would take 20 times the memory.
            if isinstance(self._body, bytes):
                self._body = bytearray(self._body)
            self._body += data
        else:
            self._body = data  # most bodies come in one piece
        if len(self._body) > self._max_bytes:
            raise too_large(self._max_bytes)

    def on_message_complete(self) -> None:
        """End a reply, or an interim reply (1xx)."""
        reply = self.reply_so_far()
        check_overhead(len(reply.head))
        if reply.status < _FIRST_STATUS:
            raise BadReply(f"{reply.status:03} is not a valid status")
        if reply.status < _FIRST_FINAL_STATUS:
            _, _, next_head = self._head.lstrip(b"\r\n").partition(END_OF_HEAD)
            self._expect_reply()
            self._head = next_head
            return
        keep_alive = self._parser.should_keep_alive()
        if self._chunked or reply.status == _NO_CONTENT:
            check_codings(header_values("transfer-encoding", reply.head))
            keep_alive = keep_alive and not is_end_ambiguous(reply, self._parser.get_http_version())
        self._expect_reply()
        self._overhead_bytes = self._unfolded_heads = 0
        self._complete = True
        self._on_reply(reply, keep_alive)
