"""Blobs in memory, with a simulated power loss: of an unsynced file, nothing or a part is left."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from errno import ENOENT, ENOSPC
from pathlib import Path

from fractal_rm.domain.journal_errors import JournalMoved

PIECE_BYTES = 64 * 1024


class MemoryBlobs:
    """Port `BlobFiles`."""

    where = "the memory disk"

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._kept: set[str] = set()  # survive a power loss
        self.full = self.away = False

    def names(self) -> list[str]:
        """All blobs."""
        return list(self._files)

    def write(self, name: str, data: bytes) -> None:
        """Write a new file, not synced yet. Raises OSError while `full`."""
        if self.full:
            raise OSError(ENOSPC, "the memory disk is set to full")
        self._files[name] = data

    def bring_in(self, name: str, file: Path) -> None:
        """Add a copy; see `write`."""
        self.write(name, file.read_bytes())

    def sync(self, names: Sequence[str]) -> None:
        """Let these files survive a power loss."""
        self._kept.update(names)

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        return len(self._found(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """The content of a file, in pieces."""
        data = self._found(name)
        for at in range(0, len(data), PIECE_BYTES):
            yield data[at : at + PIECE_BYTES]

    def delete(self, name: str) -> None:
        """Delete a file, if it exists."""
        self._files.pop(name, None)
        self._kept.discard(name)

    def check(self) -> None:
        """Raise JournalGone while `away`."""
        if self.away:
            raise JournalMoved("the memory disk was moved away")

    def close(self) -> None:
        """Nothing to close."""

    def lose_power(self, chance: random.Random | None = None) -> None:
        """Lose what was not synced; with ``chance``, some files keep a part, or have zeros."""
        for name in sorted(self._files.keys() - self._kept):
            data = self._files.pop(name)
            left = chance.randrange(4) if chance else 0
            if left:
                cut = chance.randrange(len(data)) if chance else 0
                self._files[name] = (data, data[:cut], bytes(len(data)))[left - 1]
        self._kept = set(self._files)

    def _found(self, name: str) -> bytes:
        try:
            return self._files[name]
        except KeyError:
            raise FileNotFoundError(ENOENT, f"no file {name}") from None
