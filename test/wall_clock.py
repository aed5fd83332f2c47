"""A wall clock of one process, which tests can set."""

from __future__ import annotations

from pathlib import Path

import pytest


class FakeWallClock:
    """A wall clock for one process, made with libfaketime. The clock since boot is real."""

    def __init__(self, folder: Path) -> None:
        libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
        if not libraries:
            pytest.skip("needs faketime")
        self.file = folder / "faketime"
        self.command = [
            "env",
            f"LD_PRELOAD={libraries[0]}",
            f"FAKETIME_TIMESTAMP_FILE={self.file}",
            "FAKETIME_NO_CACHE=1",
            "FAKETIME_DONT_FAKE_MONOTONIC=1",
        ]
        self.set("+0")

    def set(self, to: str) -> None:
        """Set the wall clock to a date or to a difference: "+60" is 60 s ahead of the true time."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{to}\n")
        new.replace(self.file)
