"""A disk in memory, with a simulated power loss: unsynced sectors are lost, or some of them."""

from __future__ import annotations

import random
from errno import ENOENT, ENOSPC

from fractal_rm.domain.journal_errors import JournalMoved

SECTOR_BYTES = 512


class MemoryDisk:
    """Port `Disk`. `full` and `away` simulate a full disk and a moved folder."""

    where = "the memory disk"

    def __init__(self) -> None:
        self._kept: dict[str, bytearray] = {}  # survives a power loss
        self._files: dict[str, bytearray] = {}  # as a reader sees them
        self._written: dict[str, set[int]] = {}  # sectors that are not synced
        self.full = self.away = False

    def make(self) -> None:
        """Nothing to make."""

    def names(self) -> list[str]:
        """All files."""
        return sorted(self._files)

    def create(self, name: str, size: int) -> None:
        """Make a file of zeros. Raises OSError while `full`."""
        if self.full:
            raise OSError(ENOSPC, "the memory disk is set to full")
        self._files[name], self._kept[name] = bytearray(size), bytearray(size)
        self._written[name] = set()

    def has(self, name: str) -> bool:
        """Whether a file exists."""
        return name in self._files

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        return len(self._found(name))

    def read(self, name: str, most: int = -1, place: int = 0) -> bytes:
        """The content of a file from ``place`` on: all, or at most ``most`` bytes."""
        return bytes(self._found(name)[place : None if most < 0 else place + most])

    def keep_open(self, name: str) -> None:
        """Nothing to open: there are no descriptors here."""

    def write(self, name: str, place: int, data: bytes) -> None:
        """Write bytes, not synced yet."""
        self._found(name)[place : place + len(data)] = data
        end = place + len(data)
        self._written[name].update(range(place // SECTOR_BYTES, -(-end // SECTOR_BYTES)))

    def sync(self, name: str) -> None:
        """Let what was written survive a power loss."""
        self._keep(name, self._written[name])

    def delete(self, name: str) -> None:
        """Delete a file."""
        del self._files[name], self._kept[name], self._written[name]

    def check(self) -> None:
        """Raise JournalGone while `away`."""
        if self.away:
            raise JournalMoved("the memory disk was moved away")

    def close(self) -> None:
        """Nothing to close."""

    def lose_power(self, chance: random.Random | None = None) -> None:
        """Lose what was not synced; with ``chance``, half of these sectors survive."""
        for name, sectors in self._written.items():
            survive = {each for each in sorted(sectors) if chance and chance.random() < 0.5}
            self._keep(name, survive)
            sectors.clear()
            self._files[name] = bytearray(self._kept[name])

    def _keep(self, name: str, sectors: set[int]) -> None:
        now, kept = self._found(name), self._kept[name]
        for sector in sectors:
            some = slice(sector * SECTOR_BYTES, (sector + 1) * SECTOR_BYTES)
            kept[some] = now[some]
        self._written[name] -= set(sectors)

    def _found(self, name: str) -> bytearray:
        try:
            return self._files[name]
        except KeyError:
            raise OSError(ENOENT, f"no file {name}") from None
