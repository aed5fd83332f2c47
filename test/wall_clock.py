"""Wall clocks of single processes, made with libfaketime. The clock since boot is real."""

from __future__ import annotations

from pathlib import Path

import pytest


def fake_clock_command(**variables: str) -> list[str]:
    """A command prefix. The command after it has the wall clock that variables of faketime set."""
    libraries = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    if not libraries:
        pytest.skip("needs faketime")
    variables = {"LD_PRELOAD": str(libraries[0]), "FAKETIME_DONT_FAKE_MONOTONIC": "1", **variables}
    return ["env", *(f"{name}={value}" for name, value in variables.items())]


class FakeWallClock:
    """A wall clock that can be set while its process runs. Each reading of it reads a file."""

    def __init__(self, folder: Path) -> None:
        self.file = folder / "faketime"
        self.command = fake_clock_command(
            FAKETIME_TIMESTAMP_FILE=str(self.file), FAKETIME_NO_CACHE="1"
        )
        self.set("+0")

    def set(self, to: str) -> None:
        """Set the wall clock to a date or to a difference: "+60" is 60 s ahead of the true time."""
        new = self.file.with_suffix(".new")
        new.write_text(f"{to}\n")
        new.replace(self.file)
