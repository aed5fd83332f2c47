"""Makes a backup: it is written beside the target, and gets its name when it is complete."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import sqlite3
import tarfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec

from fractal_rm import __version__
from fractal_rm.adapters.backup.journal_copy import copy_journal
from fractal_rm.adapters.node_id import existing_node_id
from fractal_rm.adapters.sqlite.read.snapshot import journals_in
from fractal_rm.config.compile import FILES
from fractal_rm.config.durable_files import sync_file, sync_folder
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.backup import (
    FORMAT,
    MANIFEST,
    BackedUpFile,
    BackupFailed,
    Manifest,
    belongs_to_backup,
)

CONFIG, STATE = "config", "state"
CASES = "flows.cases.toml"


def make_backup(config: Path, state: Path, target: Path, now_ms: int) -> Manifest:
    """Write a backup of a node to ``target``: a tar file if its name ends with .tar, else a folder.

    ``config`` and ``state`` are the folders of the node, whose processes may run. ``now_ms`` is the
    wall time. Raises BackupFailed, JournalError.
    """
    if target.exists() or target.is_symlink():
        raise BackupFailed(f"{target} exists: give another name, or move it away")
    journals = journals_in(state)
    if not journals:
        raise BackupFailed(f"{state} has no journals: no node has run with this state.path")
    try:
        with _staging(target) as folder:
            manifest = _write(config, state, journals, folder, now_ms)
            _publish(folder, target)
    except sqlite3.Error as error:
        raise BackupFailed(f"{target} was not written: {error}") from error
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise BackupFailed(f"{target} was not written: {where}{error.strerror}") from error
    return manifest


@contextmanager
def _staging(target: Path) -> Generator[Path]:
    """Yield an empty folder beside the target, and delete it at the end.

    A folder that a killed process has left is deleted first. Raises BackupFailed, OSError.
    """
    folder = target.with_name(f".{target.name}.partial")
    folder.mkdir(mode=0o700, exist_ok=True)
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BackupFailed(f"another process is writing {target} now") from None
        for left in folder.iterdir():
            _delete(left)
        yield folder
    finally:
        os.close(lock)
        shutil.rmtree(folder, ignore_errors=True)


def _delete(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()


def _write(config: Path, state: Path, journals: list[Path], staging: Path, now_ms: int) -> Manifest:
    content = staging / "content"
    for folder in (content, content / CONFIG, content / STATE):
        folder.mkdir(mode=0o700)
    for name in (*FILES, CASES):
        if (config / name).exists():
            _write_file(content / CONFIG / name, (config / name).read_bytes())
            shutil.copymode(config / name, content / CONFIG / name)
    for entry in sorted(state.iterdir()):
        if belongs_to_backup(entry.name):
            _copy_small(entry, content / STATE / entry.name)
    copied = [copy_journal(path, content / STATE) for path in journals]
    manifest = Manifest(
        FORMAT, __version__, now_ms, existing_node_id(state), copied, list(described_files(content))
    )
    _write_file(content / MANIFEST, msgspec.json.format(msgspec.json.encode(manifest)))
    return manifest


def _copy_small(source: Path, target: Path) -> None:
    """Copy a file, or the files of a folder. Files that disappear meanwhile are skipped."""
    if source.is_dir():
        target.mkdir(mode=0o700)
        for each in sorted(source.iterdir()):
            if each.is_dir() or each.is_file():
                _copy_small(each, target / each.name)
        return
    try:
        content = read_regular(source)
    except FileNotFoundError:
        return
    _write_file(target, content)


def _write_file(path: Path, content: bytes) -> None:
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(file, "wb") as out:
        out.write(content)
        out.flush()
        os.fsync(out.fileno())


def described_files(folder: Path) -> Iterator[BackedUpFile]:
    """Yield every file in a folder of a backup, except the manifest."""
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name != MANIFEST:
            with path.open("rb") as file:
                digest = hashlib.sha256()
                while piece := file.read(1 << 20):
                    digest.update(piece)
            yield BackedUpFile(name, path.stat().st_size, digest.hexdigest())


def _publish(staging: Path, target: Path) -> None:
    """Rename the complete backup to the target."""
    content = staging / "content"
    if target.suffix == ".tar":
        packed = staging / "packed"
        file = os.open(packed, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(file, "wb") as out, tarfile.open(fileobj=out, mode="w") as tar:
            tar.add(content / MANIFEST, MANIFEST)  # first, so that it is found quickly
            for name in (CONFIG, STATE):
                tar.add(content / name, name)
        sync_file(packed)
        content = packed
    else:
        for folder in (content, *(each for each in content.rglob("*") if each.is_dir())):
            sync_folder(folder)
    os.link(content, target) if content.is_file() else content.rename(target)
    sync_folder(target.parent)
