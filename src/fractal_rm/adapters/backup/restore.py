"""Restores a backup into a new state folder."""

from __future__ import annotations

import asyncio
import os
import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath

import msgspec

from fractal_rm.adapters.backup.make import CONFIG, STATE, described_files
from fractal_rm.adapters.journal_files import open_journal
from fractal_rm.adapters.lock import is_locked
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.read.snapshot import journals_in
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.config.durable_files import copy_owner, sync_file, sync_folder
from fractal_rm.domain.backup import (
    FORMAT,
    MANIFEST,
    NOT_RESTORED,
    BackupFailed,
    Manifest,
    park_reason,
)
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import Parked
from fractal_rm.domain.state import State

_FAR_LIMITS = HistoryLimits(1 << 40, 1 << 60, 1 << 40, 1 << 60)  # drop nothing


class Restored(msgspec.Struct, frozen=True):
    """A restored backup. ``parked`` counts the open runs that wait for an operator."""

    manifest: Manifest
    parked: int


def restore_backup(
    source: Path, state: Path, config: Path | None, now_ms: int, as_text: Callable[[int], str]
) -> Restored:
    """Restore a backup into the folder ``state``, which must be empty or missing.

    ``config``: a folder without configuration files, into which those of the backup are written.
    ``as_text`` shows a wall time. Nothing is changed if it fails. Raises BackupFailed.
    """
    _check_target(state)
    if config is not None:
        _check_config(config)
    partial = state.with_name(f".{state.name}.partial")
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(mode=0o700, parents=True)
        manifest = _unpack(source, partial)
        made = as_text(manifest.made_ms)
        parked = sum(
            asyncio.run(_park_open_runs(path, park_reason(made), now_ms))
            for path in journals_in(partial / STATE)
        )
        for name in NOT_RESTORED:
            (partial / STATE / name).unlink(missing_ok=True)
        for lock in (partial / STATE).glob("*.lock"):
            lock.unlink()
        _publish(partial, state, config)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        raise BackupFailed(f"{state} was not restored: {where}{error.strerror}") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return Restored(manifest, parked)


def _check_target(state: Path) -> None:
    if not state.exists() and not state.is_symlink():
        return
    if not state.is_dir():
        raise BackupFailed(f"{state} is not a folder")
    users = [lock.stem for lock in state.glob("*.lock") if is_locked(lock)]
    if users:
        raise BackupFailed(
            f"a process has {state} open (journal {', '.join(sorted(users))}): stop it first, and"
            " move this folder away"
        )
    if any(state.iterdir()):
        raise BackupFailed(
            f"{state} is not empty, and nothing is overwritten: move it away, and keep it until you"
            " know that nothing in it is needed"
        )


def _check_config(config: Path) -> None:
    if config.exists() and any(config.iterdir()):
        raise BackupFailed(f"{config} is not empty, and nothing is overwritten: give a new folder")


# --- unpack and verify --------------------------------------------------------------------------


def _unpack(source: Path, folder: Path) -> Manifest:
    """Copy a backup into a folder, and verify every file. Raises BackupFailed, OSError."""
    if source.is_dir():
        shutil.copytree(source, folder, dirs_exist_ok=True, symlinks=True)
    else:
        _extract(source, folder)
    manifest = _read_manifest(folder / MANIFEST, source)
    found, expected = list(described_files(folder)), manifest.files
    if sorted(found, key=_path) != sorted(expected, key=_path):
        different = sorted({each.path for each in set(found) ^ set(expected)})
        raise BackupFailed(
            f"{source} is damaged: {', '.join(different[:5])} is not as it was written. Use another"
            " backup"
        )
    for path in journals_in(folder / STATE):
        problems = check_journal(path).problems
        known = {each.name: each.problems for each in manifest.journals}
        if problems and not known.get(path.stem):
            raise BackupFailed(f"{source}: journal {path.stem} is damaged: {problems[0]}")
    return manifest


def _path(file: object) -> str:
    return str(getattr(file, "path", ""))


def _extract(source: Path, folder: Path) -> None:
    """Extract a tar file. Only regular files and folders with plain names are accepted."""
    try:
        with tarfile.open(source) as tar:
            for member in tar:
                name = PurePosixPath(member.name)
                if name.is_absolute() or ".." in name.parts or not (
                    member.isreg() or member.isdir()
                ):  # fmt: skip
                    raise BackupFailed(f"{source} is not a backup: it has {member.name!r:.80}")
                target = folder / name
                if member.isdir():
                    target.mkdir(mode=0o700, exist_ok=True)
                    continue
                content = tar.extractfile(member)
                if content is None:
                    raise BackupFailed(f"{source} is damaged: {member.name!r:.80} has no content")
                file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
                with content, os.fdopen(file, "wb") as out:
                    shutil.copyfileobj(content, out)
                target.chmod(member.mode & 0o666)
    except tarfile.TarError as error:
        raise BackupFailed(f"{source} is not a backup, or is not complete: {error}") from error


def _read_manifest(path: Path, source: Path) -> Manifest:
    try:
        manifest = msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:
        raise BackupFailed(f"{source} is not a backup: it has no {MANIFEST}") from None
    except msgspec.MsgspecError as error:
        raise BackupFailed(f"{source} is damaged: {MANIFEST}: {error}") from error
    if manifest.format > FORMAT:
        raise BackupFailed(
            f"{source} was written by release {manifest.version}: install this release, or a later"
            " one"
        )
    return manifest


# --- what must not be done twice ----------------------------------------------------------------


async def _park_open_runs(path: Path, reason: str, now_ms: int) -> int:
    """Park all open runs of a journal, and return how many wait for an operator now."""
    lost: list[FractalError] = []
    journal = open_journal(
        path, limits=lambda: _FAR_LIMITS, retention_ms=lambda: now_ms, on_lost=lost.append
    )
    recovered = await journal.open()
    ids = {run.id for run in recovered.runs}
    parked = 0
    for run in recovered.runs:
        parent = run.accepted.origin
        if parent is not msgspec.UNSET and parent.rpartition(":")[0] in ids:
            continue  # its parent continues it
        parked += 1
        if run.state is not State.PARKED:
            fact = Parked(reason, Cause.RESTORED)
            run.apply(fact)
            journal.append(run, fact, now_ms)
    await journal.durable
    await journal.close(clean=True)
    if lost:
        raise BackupFailed(f"{path.name} cannot be written: {lost[0]}")
    return parked


# --- publish ------------------------------------------------------------------------------------


def _publish(partial: Path, state: Path, config: Path | None) -> None:
    """Give the folders their owner and their names. The state folder comes last."""
    for path in partial.rglob("*"):
        if path.is_file():
            sync_file(path)
        else:
            sync_folder(path)
    owner = state if state.exists() else state.parent
    if os.geteuid() == 0:
        for path in (partial / STATE, *(partial / STATE).rglob("*")):
            copy_owner(owner, path)
    if config is not None:
        config.mkdir(parents=True, exist_ok=True)
        for file in sorted((partial / CONFIG).iterdir()):
            shutil.copy2(file, config / file.name)
            sync_file(config / file.name)
        sync_folder(config)
    if state.exists():
        state.rmdir()
    (partial / STATE).rename(state)
    sync_folder(state.parent)
