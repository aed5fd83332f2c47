"""Which part of a request is being read."""

from __future__ import annotations

from fractal_rm.web.head import MAX_HEAD_BYTES


class RequestProgress:
    """How far the current request was read.

    ``begun``: part of a request was read, but not all of it. ``in_trailer`` is also true between a
    chunk header and the content of the chunk.
    """

    __slots__ = ("_field_bytes", "begun", "in_head", "in_trailer")

    def __init__(self) -> None:
        self.begun = False
        self.in_head = True
        self.in_trailer = False
        self._field_bytes = 0  # of a head or trailer that is not complete

    def next_fields(self, data: bytes) -> tuple[bytes, bytes] | None:
        """Split off as many bytes as the current head or trailer may still have.

        None in a body, whose size is bounded elsewhere.
        """
        if not (self.in_head or self.in_trailer):
            return None
        room = MAX_HEAD_BYTES - self._field_bytes
        piece = data[:room]
        self._field_bytes += len(piece)
        return piece, data[room:]

    @property
    def fields_too_large(self) -> bool:
        """Whether the current head or trailer has reached its bound."""
        return self._field_bytes >= MAX_HEAD_BYTES

    def head_complete(self) -> None:
        """The body follows."""
        self.in_head = False
        self._field_bytes = 0

    def chunk_header(self) -> None:
        """The content of a chunk follows, or, after the last chunk, a trailer."""
        self.in_trailer = True
        self._field_bytes = 0

    def complete(self) -> None:
        """The whole request was read; another head may follow."""
        self.begun = False
        self.in_head = True
        self.in_trailer = False
        self._field_bytes = 0
