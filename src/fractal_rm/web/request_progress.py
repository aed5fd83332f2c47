"""Tracks which part of a request is being read."""

from __future__ import annotations

from fractal_rm.web.head import MAX_HEAD_BYTES


class RequestProgress:
    """Tracks which part of the current request is being read.

    ``begun`` is true while a part of a request was read, but not all of it. ``refused`` is true
    after a refusal: nothing more is read. ``keep_alive`` is true if the client wants to keep the
    connection open after this request. ``in_trailer`` is true after each chunk header until content
    follows, because a trailer may follow instead.
    """

    __slots__ = ("_field_bytes", "begun", "in_head", "in_trailer", "keep_alive", "refused")

    def __init__(self) -> None:
        self.begun = False
        self.refused = False
        self.keep_alive = True
        self.in_head = True
        self.in_trailer = False
        self._field_bytes = 0  # the number of bytes of the current head or trailer that were read

    def split_at_size_limit(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Split ``data`` where the current head or trailer reaches its maximum size.

        Returns the bytes within this size, and the bytes after them. Returns None for data of a
        body, whose size is limited elsewhere.
        """
        if not (self.in_head or self.in_trailer):
            return None
        room = MAX_HEAD_BYTES - self._field_bytes
        within_limit = data[:room]
        self._field_bytes += len(within_limit)
        return within_limit, data[room:]

    @property
    def fields_too_large(self) -> bool:
        """Whether the current head or trailer has reached its maximum size."""
        return self._field_bytes >= MAX_HEAD_BYTES

    def head_complete(self) -> None:
        """Note that the head was read, so that the body follows."""
        self.in_head = False
        self._field_bytes = 0

    def chunk_header(self) -> None:
        """Note that a chunk header was read. Content follows, or a trailer after the last one."""
        self.in_trailer = True
        self._field_bytes = 0

    def complete(self) -> None:
        """Note that the whole request was read, so that another head may follow."""
        self.begun = False
        self.in_head = True
        self.in_trailer = False
        self._field_bytes = 0
