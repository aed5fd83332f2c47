"""Tracks which part of a request is being read."""

from __future__ import annotations

from fractal_rm.web.head import MAX_HEAD_BYTES


class RequestProgress:
    """Tracks which part of the current request is being read.

    ``begun``: the beginning of a request was read, but not its end. ``refused``: the request was
    refused, so nothing more is read. ``keep_alive``: the client wants to keep the connection open
    after this request. ``in_trailer`` is also true between a chunk header and the content of the
    chunk.
    """

    __slots__ = ("_field_bytes", "begun", "in_head", "in_trailer", "keep_alive", "refused")

    def __init__(self) -> None:
        self.begun = False
        self.refused = False
        self.keep_alive = True
        self.in_head = True
        self.in_trailer = False
        self._field_bytes = 0  # how many bytes of the current head or trailer were read

    def next_fields(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Split ``data`` where the current head or trailer would reach its maximum size.

        Returns None for data of a body: the size of a body is limited elsewhere.
        """
        if not (self.in_head or self.in_trailer):
            return None
        room = MAX_HEAD_BYTES - self._field_bytes
        piece = data[:room]
        self._field_bytes += len(piece)
        return piece, data[room:]

    @property
    def fields_too_large(self) -> bool:
        """Whether the current head or trailer has reached its maximum size."""
        return self._field_bytes >= MAX_HEAD_BYTES

    def head_complete(self) -> None:
        """Note that the head is complete: the body follows."""
        self.in_head = False
        self._field_bytes = 0

    def chunk_header(self) -> None:
        """Note a chunk header: content follows, or a trailer if it was the last chunk header."""
        self.in_trailer = True
        self._field_bytes = 0

    def complete(self) -> None:
        """Note that the whole request was read: another head may follow."""
        self.begun = False
        self.in_head = True
        self.in_trailer = False
        self._field_bytes = 0
