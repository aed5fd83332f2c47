"""A cache of parsed reply heads.

A server sends the same head with each reply; only the date changes, once a second. If the head is
in the cache and the whole body has arrived with the head, the reply need not be parsed.
"""

from __future__ import annotations

from fractal_rm.domain.call import HttpResponse

END_OF_HEAD = b"\r\n\r\n"
MAX_HEADS = 64
MAX_HEAD_BYTES = 1024
_CACHE_PREVENTING_HEADERS = frozenset({"transfer-encoding", "content-encoding"})


class HeadCache:
    """A cache from the bytes of a head to its status and the length of the body."""

    def __init__(self) -> None:
        # Head -> status, length of the body, and the head itself.
        self._cached: dict[bytes, tuple[int, int, bytes]] = {}
        self._last = b""  # the head that was parsed last

    def reply_with_known_head(self, data: bytes) -> HttpResponse | None:
        """The reply, if ``data`` is a cached head with its complete body; else None."""
        head, _, body = data.partition(END_OF_HEAD)
        cached = self._cached.get(head)
        if cached is None:
            return None
        status, length, shared_head = cached  # so that all replies share one object
        return HttpResponse(status, shared_head, body) if len(body) == length else None

    def learn(self, reply: HttpResponse) -> None:
        """Cache the head of a parsed reply after which the connection stays open.

        Only a head that is received twice in a row is cached: if each head is different, a cache
        is of no use. A head without a Content-Length, or with a transfer coding, is not cached,
        because it does not define where the body ends. A head with a content coding is not cached,
        because the body must be decoded.
        """
        if reply.head != self._last:
            self._last = reply.head
            return
        if len(reply.head) > MAX_HEAD_BYTES:
            return
        headers = reply.headers_by_name()
        if headers.keys() & _CACHE_PREVENTING_HEADERS:
            return
        if headers.get("content-length") != str(len(reply.body)):
            return
        if len(self._cached) >= MAX_HEADS:
            self._cached.clear()
        self._cached[reply.head] = reply.status, len(reply.body), reply.head
