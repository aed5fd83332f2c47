"""The five files on the disk: read them, and see when they change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fractal_rm.config.compile import FILES, Compiled, compile_config
from fractal_rm.domain.findings import Finding, Place

Signature = tuple[tuple[str, int, int, int], ...]


def load(folder: Path, environ: Mapping[str, str]) -> Compiled:
    """Read and compile the configuration in ``folder``. Raises ConfigRejected."""
    return compile_config({file: _text(folder / file) for file in FILES}, folder, environ)


def _text(path: Path) -> str | Finding:
    try:
        return path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        code = "F113" if path.name == "flows.conf" else "C202"
        line = error.object.count(b"\n", 0, error.start) + 1
        return Finding(path.name, Place(line, 1), code, f"byte {error.start} is not UTF-8")
    except OSError as error:
        return Finding(path.name, Place(), "C201", f"{path}: {error.strerror or error}")


class Watch:
    """Says when files have changed and have come to rest.

    An editor may write a file in several pieces, and five files are changed one after another: a
    change counts when two looks in a row see the same.
    """

    def __init__(self, folder: Path, referenced: Sequence[Path]) -> None:
        self._folder = folder
        self._referenced = list(referenced)
        self._taken = self._seen = self._look()

    def changed(self) -> bool:
        """Look. True once for every change that has come to rest."""
        before, self._seen = self._seen, self._look()
        if self._seen == before and self._seen != self._taken:
            self._taken = self._seen
            return True
        return False

    def refer_to(self, referenced: Sequence[Path]) -> None:
        """The files that the configuration in force refers to are watched too."""
        self._referenced = list(referenced)
        self._taken = self._seen = self._look()

    def still(self) -> bool:
        """Whether nothing has changed since ``changed`` said so: what was read is whole."""
        return self._look() == self._taken

    def _look(self) -> Signature:
        return tuple(_signature(path) for path in self._paths())

    def _paths(self) -> list[Path]:
        return [*(self._folder / file for file in FILES), *self._referenced]


def _signature(path: Path) -> tuple[str, int, int, int]:
    try:
        found = os.stat(path)  # noqa: PTH116 - four times a second for every file, so the cheap one
    except OSError:
        return str(path), 0, 0, 0
    return str(path), found.st_mtime_ns, found.st_size, found.st_ino
