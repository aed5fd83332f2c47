"""The configurations that a node has applied, whole, in the state folder.

Each is a file ``configs/000012.json`` with the texts of the five files as they were. References
such as ``env:`` are not resolved, but the files themselves may contain secrets. So only the user of
the node can read them. Both processes of a node write here.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fractal_rm.config.durable_files import copy_owner, replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError

FOLDER = "configs"
KEPT = 50  # older configurations are deleted
CHANGED_FILES = "changed files"  # nobody has said who changed them
KNOWN_LATER_MS = 10_000
_NAME = re.compile(r"([0-9]{6,12})\.json")
_PRIVATE_FOLDER, _PRIVATE_FILE = 0o700, 0o600
MAX_BYTES = 64 * 1024 * 1024  # of one file; five files of the configuration have at most 20 MiB


class NotKept(FractalError):
    """A configuration is not kept, or cannot be read. The text gives the reason."""

    code = "config-not-kept"


class Applied(msgspec.Struct, frozen=True):
    """A configuration that was applied.

    ``number`` counts from 1. ``at_ms`` is the wall time, in milliseconds since 1970. ``by`` says
    what applied it, such as ``start of "up"``. ``files`` has the text of each file.
    """

    number: int
    at_ms: int
    by: str
    files: dict[str, str]


def store_applied(state: Path, files: Mapping[str, str], by: str, at_ms: int) -> Applied | None:
    """Store a configuration durably. Returns None if the newest one is the same. Raises OSError.

    A node notes that files have changed (`CHANGED_FILES`), perhaps before the program that wrote
    them says who has done it: then the newest one is replaced.
    """
    folder = state / FOLDER
    _make_folder(folder)
    with _locked(folder):
        numbers = _numbers(folder)
        newest = _newest_readable(folder, numbers)
        number = max(numbers, default=0) + 1
        if newest is not None and newest.files == files:
            is_unsigned = newest.by == CHANGED_FILES and by != CHANGED_FILES
            if not is_unsigned or abs(at_ms - newest.at_ms) > KNOWN_LATER_MS:
                return None
            number = newest.number  # the node was faster than whoever has written the files
        applied = Applied(number, at_ms, by, dict(files))
        replace_file(
            _path(folder, applied.number), msgspec.json.encode(applied), mode=_PRIVATE_FILE
        )
        kept = sorted({*numbers, number})
        for old in kept[: max(len(kept) - KEPT, 0)]:
            _path(folder, old).unlink(missing_ok=True)
    return applied


def applied_numbers(state: Path) -> list[int]:
    """The numbers of the configurations that are kept, in order. Raises NotKept."""
    try:
        return sorted(_numbers(state / FOLDER))
    except OSError as error:
        raise NotKept(f"{state / FOLDER} cannot be read: {error.strerror or error}") from error


def read_applied(state: Path, number: int) -> Applied:
    """A configuration by its number. Raises NotKept."""
    try:
        return _read(state / FOLDER, number)
    except FileNotFoundError:
        raise NotKept(
            f"configuration {number} is not kept; `fractal-rm config history` lists those that are"
        ) from None
    except (OSError, msgspec.DecodeError) as error:
        text = error.strerror if isinstance(error, OSError) else "it is damaged"
        path = _path(state / FOLDER, number)
        raise NotKept(f"configuration {number} cannot be read ({path}): {text}") from error


def _numbers(folder: Path) -> list[int]:
    try:
        names = os.listdir(folder)  # noqa: PTH208 - only the names are needed
    except FileNotFoundError:
        return []
    return [int(match[1]) for match in map(_NAME.fullmatch, names) if match]


def _newest_readable(folder: Path, numbers: list[int]) -> Applied | None:
    """The newest configuration; None if there is none, or if it is damaged."""
    try:
        return _read(folder, max(numbers)) if numbers else None
    except msgspec.DecodeError:
        return None


def _read(folder: Path, number: int) -> Applied:
    return msgspec.json.decode(read_regular(_path(folder, number), MAX_BYTES), type=Applied)


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:06}.json"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(mode=_PRIVATE_FOLDER)
    except FileExistsError:
        return
    if os.geteuid() == 0:
        copy_owner(folder.parent, folder)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
