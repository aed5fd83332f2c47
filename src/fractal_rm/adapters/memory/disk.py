"""A disk in memory. A simulated power loss discards all or some of the unsynced sectors."""

from __future__ import annotations

import random
from errno import ENOENT, ENOSPC

from fractal_rm.domain.journal_errors import JournalMoved

SECTOR_BYTES = 512


class MemoryDisk:
    """Port `Disk`. ``full`` simulates a full disk. ``away`` simulates a moved folder."""

    where = "the memory disk"

    def __init__(self) -> None:
        self._durable: dict[str, bytearray] = {}  # the content that survives a power loss
        self._files: dict[str, bytearray] = {}  # the content that a reader sees
        self._unsynced: dict[str, set[int]] = {}  # the sectors that are not synced
        self.full = self.away = False

    def make(self) -> None:
        """Do nothing: there is no folder."""

    def names(self) -> list[str]:
        """The names of all files."""
        return sorted(self._files)

    def create(self, name: str, size: int) -> None:
        """Create a file of zeros. Raises OSError while ``full`` is set."""
        if self.full:
            raise OSError(ENOSPC, "the memory disk is set to full")
        self._files[name], self._durable[name] = bytearray(size), bytearray(size)
        self._unsynced[name] = set()

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        return name in self._files

    def size(self, name: str) -> int:
        """The size of a file in bytes."""
        return len(self._found(name))

    def read(self, name: str, max_bytes: int = -1, place: int = 0) -> bytes:
        """The content of a file from ``place`` on: all, or at most ``max_bytes``."""
        content = self._found(name)
        end = len(content) if max_bytes < 0 else place + max_bytes
        return bytes(content[place:end])

    def keep_open(self, name: str) -> None:
        """Do nothing: there are no descriptors."""

    def write(self, name: str, place: int, data: bytes) -> None:
        """Write bytes without a sync."""
        self._found(name)[place : place + len(data)] = data
        end = place + len(data)
        self._unsynced[name].update(range(place // SECTOR_BYTES, -(-end // SECTOR_BYTES)))

    def sync(self, name: str) -> None:
        """Make the written bytes survive a power loss."""
        self._make_durable(name, self._unsynced[name])

    def delete(self, name: str) -> None:
        """Delete a file."""
        del self._files[name], self._durable[name], self._unsynced[name]

    def check(self) -> None:
        """Raise JournalMoved while ``away`` is set."""
        if self.away:
            raise JournalMoved("the memory disk was moved away")

    def close(self) -> None:
        """Do nothing: no file is open."""

    def lose_power(self, chance: random.Random | None = None) -> None:
        """Discard all unsynced sectors. With ``chance``, about half of them survive."""
        for name, sectors in self._unsynced.items():
            survive = {each for each in sorted(sectors) if chance and chance.random() < 0.5}
            self._make_durable(name, survive)
            sectors.clear()
            self._files[name] = bytearray(self._durable[name])

    def _make_durable(self, name: str, sectors: set[int]) -> None:
        content, durable = self._found(name), self._durable[name]
        for sector in sectors:
            place = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
            durable[place] = content[place]
        self._unsynced[name] -= set(sectors)

    def _found(self, name: str) -> bytearray:
        try:
            return self._files[name]
        except KeyError:
            raise OSError(ENOENT, f"no file {name}") from None
