"""Reads the five files from the disk, and detects their changes."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fractal_rm.config.compile import FILES, Compiled, compile_config
from fractal_rm.config.model import Config
from fractal_rm.config.regular_file import (
    CONFIG_BYTES,
    Version,
    file_version,
    finding_code,
    read_regular,
)
from fractal_rm.domain.findings import ConfigRejected, Finding, Place


def load(folder: Path, environ: Mapping[str, str]) -> Compiled:
    """Read and compile the configuration in ``folder``. Raises ConfigRejected."""
    _check_there(folder)
    texts = {file: read_file(folder / file) for file in FILES}
    try:
        return compile_config(texts, folder, environ)
    except OSError as error:  # the libraries for schedules are loaded when needed
        what = f"a library for this file cannot be loaded: {error}"
        raise ConfigRejected([Finding("flows.conf", Place(), "C201", what)]) from error


def load_comm(folder: Path, environ: Mapping[str, str]) -> Config:
    """Load only comm.conf, as if the other files were empty. Raises ConfigRejected.

    It is for commands that only need the place of the journals: they must work although another
    file has errors.
    """
    _check_there(folder)
    texts: dict[str, str | Finding] = dict.fromkeys(FILES, "{}")
    texts |= {"flows.conf": "", "comm.conf": read_file(folder / "comm.conf")}
    return compile_config(texts, folder, environ).config


def _check_there(folder: Path) -> None:
    if not any(_may_be_there(folder / file) for file in FILES):
        what = f"there is no configuration in {folder}"
        hint = "write the folder of the five files: --config DIR, or check DIR"
        raise ConfigRejected([Finding(FILES[0], Place(), "C201", what, hint)])


def _may_be_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # reading it will give the error
        return True
    return True


def read_file(path: Path) -> str | Finding:
    """The text of one of the five files, or a finding if it cannot be read."""
    try:
        return read_regular(path, CONFIG_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        code = "F113" if path.name == "flows.conf" else "C202"
        line = error.object.count(b"\n", 0, error.start) + 1
        return Finding(path.name, Place(line, 1), code, f"byte {error.start} is not UTF-8")
    except OSError as error:
        code = finding_code(error, "C201")
        return Finding(path.name, Place(), code, f"{path}: {error.strerror or error}")


class FileWatch:
    """Detects that files have changed, and have stopped changing.

    An editor may write a file in several parts, and several files may be changed one after another.
    So a change counts when two checks in a row see the same state, until `take` is called. Create
    the watch before the files are read, so that a change during the reading is detected.
    """

    def __init__(self, folder: Path) -> None:
        self._own = [folder / file for file in FILES]
        self._taken = {path: _signature(path) for path in self._own}
        self._seen = self._taken

    def watch_also(self, referenced: Sequence[Path]) -> None:
        """Watch also the files that the configuration refers to."""
        taken = self._taken
        watched = [*self._own, *referenced]
        self._taken = self._seen = {
            path: taken[path] if path in taken else _signature(path) for path in watched
        }

    def changed(self) -> bool:
        """Check the files. True for a complete change that was not taken yet."""
        before, self._seen = self._seen, self._look()
        return self._seen == before and self._seen != self._taken

    def accept(self) -> None:
        """Take the current change: the files are read now."""
        self._taken = self._seen

    def unchanged(self) -> bool:
        """Whether nothing has changed since `take`, so that what was read is consistent."""
        return self._look() == self._taken

    def _look(self) -> dict[Path, Version]:
        return {path: _signature(path) for path in self._taken}


def _signature(path: Path) -> Version:
    try:
        found = os.stat(path)  # noqa: PTH116 - called four times a second for every file
    except (OSError, ValueError):  # it does not exist, or its name has a NUL
        return 0, 0, 0, 0
    return file_version(found)
