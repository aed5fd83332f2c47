"""Blobs in memory. A simulated power loss deletes or damages the unsynced files."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from errno import ENOENT, ENOSPC
from pathlib import Path

from fractal_rm.domain.journal_errors import JournalMoved

PIECE_BYTES = 64 * 1024


class MemoryBlobs:
    """Port `BlobFiles`. ``full`` simulates a full disk. ``away`` simulates a moved folder."""

    where = "the memory disk"

    def __init__(self) -> None:
        self._files: dict[str, bytes] = {}
        self._durable: set[str] = set()  # files that survive a power loss
        self.full = self.away = False

    def names(self) -> list[str]:
        """The names of all blobs."""
        return list(self._files)

    def write(self, name: str, data: bytes) -> None:
        """Write a new file without a sync. Raises OSError while ``full`` is set."""
        if self.full:
            raise OSError(ENOSPC, "the memory disk is set to full")
        self._files[name] = data

    def link_or_copy(self, name: str, file: Path) -> None:
        """Add a copy of a file; see `write`."""
        self.write(name, file.read_bytes())

    def sync(self, names: Sequence[str]) -> None:
        """Make these files survive a power loss."""
        self._durable.update(names)

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        return len(self._found(name))

    def pieces(self, name: str) -> Iterator[bytes]:
        """Yield the content of a file in pieces."""
        data = self._found(name)
        for at in range(0, len(data), PIECE_BYTES):
            yield data[at : at + PIECE_BYTES]

    def delete(self, name: str) -> None:
        """Delete a file if it exists."""
        self._files.pop(name, None)
        self._durable.discard(name)

    def check(self) -> None:
        """Raise JournalMoved while ``away`` is set."""
        if self.away:
            raise JournalMoved("the memory disk was moved away")

    def close(self) -> None:
        """Do nothing: no file is open."""

    def lose_power(self, chance: random.Random | None = None) -> None:
        """Delete unsynced files.

        With ``chance``, some of them remain: complete, truncated, or with zeros instead of data.
        """
        for name in sorted(self._files.keys() - self._durable):
            data = self._files.pop(name)
            if chance and (effect := chance.randrange(4)):
                cut = chance.randrange(len(data))
                self._files[name] = {1: data, 2: data[:cut], 3: bytes(len(data))}[effect]
        self._durable = set(self._files)

    def _found(self, name: str) -> bytes:
        try:
            return self._files[name]
        except KeyError:
            raise FileNotFoundError(ENOENT, f"no file {name}") from None
