"""The five files on the disk: read them, and see when they change."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from fractal_rm.config.compile import FILES, Compiled, compile_config
from fractal_rm.config.model import Config
from fractal_rm.config.regular_file import CONFIG_BYTES, Version, code_of, read_regular, version_of
from fractal_rm.domain.findings import ConfigRejected, Finding, Place


def load(folder: Path, environ: Mapping[str, str]) -> Compiled:
    """Read and compile the configuration in ``folder``. Raises ConfigRejected."""
    _check_there(folder)
    texts = {file: read_file(folder / file) for file in FILES}
    try:
        return compile_config(texts, folder, environ)
    except OSError as error:  # time zones and JMESPath, which are loaded when a flow has one
        what = f"what it takes to read it cannot be loaded: {error}"
        raise ConfigRejected([Finding("flows.conf", Place(), "C201", what)]) from error


def load_comm(folder: Path, environ: Mapping[str, str]) -> Config:
    """comm.conf alone, as if the other files said nothing. Raises ConfigRejected.

    For who only has to know where the journals are: a mistake in another file must keep nobody from
    looking at the runs, or from pausing.
    """
    _check_there(folder)
    texts: dict[str, str | Finding] = dict.fromkeys(FILES, "{}")
    texts |= {"flows.conf": "", "comm.conf": read_file(folder / "comm.conf")}
    return compile_config(texts, folder, environ).config


def _check_there(folder: Path) -> None:
    if not any(_may_be_there(folder / file) for file in FILES):
        what = f"there is no configuration in {folder}"
        hint = "name the folder of the five files: --config DIR, or check DIR"
        raise ConfigRejected([Finding(FILES[0], Place(), "C201", what, hint)])


def _may_be_there(path: Path) -> bool:
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:  # to read it says why
        return True
    return True


def read_file(path: Path) -> str | Finding:
    """The text of one of the five files, or the finding about it."""
    try:
        return read_regular(path, CONFIG_BYTES).decode("utf-8")
    except UnicodeDecodeError as error:
        code = "F113" if path.name == "flows.conf" else "C202"
        line = error.object.count(b"\n", 0, error.start) + 1
        return Finding(path.name, Place(line, 1), code, f"byte {error.start} is not UTF-8")
    except OSError as error:
        code = code_of(error, "C201")
        return Finding(path.name, Place(), code, f"{path}: {error.strerror or error}")


class Watch:
    """Says when files have changed and have come to rest.

    An editor may write a file in several pieces, and five files are changed one after another: a
    change counts when two looks in a row see the same, until `take` says that it is taken up. Make
    it before the files are read, so that what changes while they are read is a change.
    """

    def __init__(self, folder: Path) -> None:
        self._own = [folder / file for file in FILES]
        self._taken = {path: _signature(path) for path in self._own}
        self._seen = self._taken

    def refer_to(self, referenced: Sequence[Path]) -> None:
        """The files that the configuration on the disk refers to are watched too."""
        taken = self._taken
        watched = [*self._own, *referenced]
        self._taken = self._seen = {
            path: taken[path] if path in taken else _signature(path) for path in watched
        }

    def changed(self) -> bool:
        """Look. True for a change that has come to rest and was not taken."""
        before, self._seen = self._seen, self._look()
        return self._seen == before and self._seen != self._taken

    def take(self) -> None:
        """The files are read now: what differs from here on is another change."""
        self._taken = self._seen

    def still(self) -> bool:
        """Whether nothing has changed since ``take``: what was read is whole."""
        return self._look() == self._taken

    def _look(self) -> dict[Path, Version]:
        return {path: _signature(path) for path in self._taken}


def _signature(path: Path) -> Version:
    try:
        found = os.stat(path)  # noqa: PTH116 - four times a second for every file, so the cheap one
    except (OSError, ValueError):  # it is not there, or cannot be: a NUL in its name
        return 0, 0, 0, 0
    return version_of(found)
