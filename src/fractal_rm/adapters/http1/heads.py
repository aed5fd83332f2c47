"""Heads of replies that the parser has read: the same bytes mean the same again.

A server writes one head for reply after reply, with the date changed once a second. Where it is
known, and the whole body came along with it, there is nothing left to parse.
"""

from __future__ import annotations

from fractal_rm.domain.call import Reply

END_OF_HEAD = b"\r\n\r\n"
KNOWN_AT_MOST = 64
LONGEST_BYTES = 1024
_MEAN_MORE = frozenset({"transfer-encoding", "content-encoding"})


class Heads:
    """By its bytes, the status that a head says and how long the body after it is."""

    def __init__(self) -> None:
        self._known: dict[bytes, tuple[int, int, bytes]] = {}
        self._last = b""  # that was parsed

    def whole_reply(self, data: bytes) -> Reply | None:
        """The reply that ``data`` is from its first byte to its last; None: that takes a parser."""
        head, _, body = data.partition(END_OF_HEAD)
        known = self._known.get(head)
        if known is None:
            return None
        status, length, head = known  # one head for all of them
        return Reply(status, head, body) if len(body) == length else None

    def learn(self, reply: Reply) -> None:
        """Keep the head of a parsed reply that left its connection open, if it says the length.

        Only one that comes twice in a row: where each is another one, keeping them is in vain. A
        head without a length, or with a transfer coding, does not say where its body ends; with a
        content coding, the body is not what is to be handed on.
        """
        if reply.head != self._last:
            self._last = reply.head
            return
        headers = reply.headers_by_name() if len(reply.head) <= LONGEST_BYTES else {}
        if headers.get("content-length") != str(len(reply.body)) or not headers.keys().isdisjoint(
            _MEAN_MORE
        ):
            return
        if len(self._known) >= KNOWN_AT_MOST:
            self._known.clear()
        self._known[reply.head] = reply.status, len(reply.body), reply.head
