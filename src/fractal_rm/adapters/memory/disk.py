"""A disk in memory that can lose its power: what was not synced is then gone, or there in part."""

from __future__ import annotations

import random
from errno import ENOENT, ENOSPC

from fractal_rm.domain.journal_errors import JournalGone

SECTOR_BYTES = 512


class MemoryDisk:
    """Port `Disk`. ``chance`` decides which unsynced sectors survive a power cut; None: none."""

    where = "the memory disk"

    def __init__(self) -> None:
        self._kept: dict[str, bytearray] = {}  # outlives the power
        self._files: dict[str, bytearray] = {}  # as the system shows them
        self._written: dict[str, set[int]] = {}  # sectors that are not synced
        self.full = self.away = False

    def make(self) -> None:
        """It is there."""

    def names(self) -> list[str]:
        """Every file that is there."""
        return sorted(self._files)

    def create(self, name: str, size: int) -> None:
        """Make a file of zeros; ENOSPC while `full`."""
        if self.full:
            raise OSError(ENOSPC, "the memory disk was told to be full")
        self._files[name], self._kept[name] = bytearray(size), bytearray(size)
        self._written[name] = set()

    def has(self, name: str) -> bool:
        """Whether a file is there still."""
        return name in self._files

    def size(self, name: str) -> int:
        """How many bytes a file has."""
        return len(self._found(name))

    def read(self, name: str, most: int = -1, place: int = 0) -> bytes:
        """A file from a place on: all, or so many bytes."""
        return bytes(self._found(name)[place : None if most < 0 else place + most])

    def hold(self, name: str) -> None:
        """Files need no descriptor here."""

    def write(self, name: str, place: int, data: bytes) -> None:
        """Not synced yet."""
        self._found(name)[place : place + len(data)] = data
        end = place + len(data)
        self._written[name].update(range(place // SECTOR_BYTES, -(-end // SECTOR_BYTES)))

    def sync(self, name: str) -> None:
        """From here on it outlives the power."""
        self._keep(name, self._written[name])

    def delete(self, name: str) -> None:
        """Remove a file."""
        del self._files[name], self._kept[name], self._written[name]

    def check(self) -> None:
        """While `away`, it is not where it will be looked for."""
        if self.away:
            raise JournalGone("the memory disk was moved away")

    def close(self) -> None:
        """Nothing to let go of."""

    def lose_power(self, chance: random.Random | None = None) -> None:
        """Forget what was not synced, but for sectors that ``chance`` lets survive."""
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
