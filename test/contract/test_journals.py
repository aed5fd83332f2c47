"""Runs the tests of JournalConformance with the journal in memory and the journal on a disk."""

from __future__ import annotations

import random

import pytest
from disk_journals import SmallDisk, sqlite_journal

from fractal_rm.adapters.memory import MemoryJournal
from fractal_rm.adapters.memory.blobs import MemoryBlobs
from fractal_rm.adapters.memory.disk import MemoryDisk
from fractal_rm.adapters.memory.journal import JournalContent
from fractal_rm.testing.journal import (
    JournalConformance,
)


class TestMemoryJournal(JournalConformance):
    @pytest.fixture(autouse=True)
    def _disk(self):
        self.disk = JournalContent()
        self.disk.others = [JournalContent()]

    def new(self):
        return MemoryJournal(self.disk)

    def new_other(self):
        return MemoryJournal(self.disk.others[0])

    def crash(self, journal):
        journal.crash()

    def fill(self, journal, *, full):
        journal.full = full

    def move(self, journal, *, away):
        journal.away = away


class TestLogJournal(JournalConformance):
    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path):
        self.folder = tmp_path

    def new(self):
        return sqlite_journal(self.folder)

    def new_other(self):
        return sqlite_journal(self.folder, "mqtt")

    def crash(self, journal):
        """Close files and release locks without writing anything, as SIGKILL does."""
        journal.crash()

    def fill(self, journal, *, full):
        SmallDisk.full = full

    def move(self, journal, *, away):
        aside = self.folder.with_name("aside")
        self.folder.rename(aside) if away else aside.rename(self.folder)


class TestLogJournalAfterPowerLoss(JournalConformance):
    """Each crash is a power loss: the disk of the log keeps synced sectors, and some of the others.

    The disk of the history loses nothing: the history has only data that the log has synced before.
    """

    @pytest.fixture(autouse=True)
    def _disk(self, tmp_path):
        self.folder, self.disk, self.blobs = tmp_path, MemoryDisk(), MemoryBlobs()
        self.chance = random.Random(1)

    def new(self):
        return sqlite_journal(self.folder, disk=lambda _: self.disk, blobs=lambda _: self.blobs)

    def new_other(self):
        """Make another journal. A power loss does not affect the disk of its log."""
        return sqlite_journal(self.folder, "mqtt")

    def crash(self, journal):
        journal.crash()
        self.disk.lose_power(self.chance)
        self.blobs.lose_power(self.chance)

    def fill(self, journal, *, full):
        self.disk.full = self.blobs.full = full

    def move(self, journal, *, away):
        self.disk.away = self.blobs.away = away
