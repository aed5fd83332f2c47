"""Reads the five configuration files from the disk, and detects changes of them."""

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


def load(folder: Path, environ: Mapping[str, str], now_ms: int | None = None) -> Compiled:
    """Read and compile the configuration in ``folder``. Raises ConfigRejected.

    ``now_ms`` is the time with which the dates of certificates are compared. Without it,
    certificates are not checked.
    """
    _check_any_exists(folder)
    texts = {file: read_file(folder / file) for file in FILES}
    try:
        return compile_config(texts, folder, environ, now_ms=now_ms)
    except OSError as error:  # flows with a schedule need a library, which is loaded only then
        text = f"a library for this file cannot be loaded: {error}"
        raise ConfigRejected([Finding("flows.conf", Place(), "C201", text)]) from error


def load_comm(folder: Path, environ: Mapping[str, str]) -> Config:
    """Load only comm.conf. The other files count as empty. Raises ConfigRejected.

    Commands that need only the state folder use this function, because they must work even if
    another file has errors.
    """
    _check_any_exists(folder)
    texts: dict[str, str | Finding] = dict.fromkeys(FILES, "{}")
    texts |= {"flows.conf": "", "comm.conf": read_file(folder / "comm.conf")}
    return compile_config(texts, folder, environ, comm_only=True).config


def _check_any_exists(folder: Path) -> None:
    if not any(_may_exist(folder / file) for file in FILES):
        text = f"there is no configuration in {folder}"
        hint = "give the folder of the five files: --config DIR, or check DIR"
        raise ConfigRejected([Finding(FILES[0], Place(), "C201", text, hint)])


def _may_exist(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # `read_file` will report the error
        return True
    return True


def read_file(path: Path) -> str | Finding:
    """Return the text of a configuration file, or a finding if the file cannot be read."""
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
    """Detects that files have changed, and that the change is complete.

    An editor may write a file in several parts, and a person may change several files one after
    another. So a change counts as complete when two checks in a row find the same state. Create
    this object before you read the files, so that it detects a change while they are read.
    """

    def __init__(self, folder: Path) -> None:
        self._own = [folder / file for file in FILES]
        self._accepted = {path: version_of(path) for path in self._own}
        self._last = self._accepted

    def watch_also(self, referenced: Sequence[Path]) -> None:
        """Also watch the files that the configuration refers to."""
        accepted = self._accepted
        watched = [*self._own, *referenced]
        self._accepted = self._last = {
            path: accepted[path] if path in accepted else version_of(path) for path in watched
        }

    def changed(self) -> bool:
        """Check the files. Return whether there is a new change, and the change is complete."""
        previous, self._last = self._last, self._current()
        return self._last == previous and self._last != self._accepted

    def accept(self) -> None:
        """Accept the state that the last check found. Call this before reading the files."""
        self._accepted = self._last

    def unchanged(self) -> bool:
        """Return whether no file has changed since `accept`.

        Call this after reading the files. If it is true, all texts are from the same moment.
        """
        return self._current() == self._accepted

    def _current(self) -> dict[Path, Version]:
        return {path: version_of(path) for path in self._accepted}


def version_of(path: Path) -> Version:
    """The version of a file; zeros if it does not exist."""
    try:
        status = os.stat(path)  # noqa: PTH116 - faster; called twice a second for each file
    except (OSError, ValueError):  # the file does not exist, or the path contains a NUL character
        return 0, 0, 0, 0
    return file_version(status)
