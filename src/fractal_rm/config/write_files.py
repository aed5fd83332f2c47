"""Writes configurations: all files that change or none, and who did it into the history."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path

from fractal_rm.config.applied import Applied, store_applied
from fractal_rm.config.staged_files import PRIVATE, FileChange, FilesNotWritten, StagedFiles
from fractal_rm.config.versions import changed_files, texts_on_disk
from fractal_rm.domain.errors import FractalError


class CannotRollBack(FractalError):
    """The files are not replaced. The text gives the reason."""

    code = "cannot-roll-back"


class ChangedMeanwhile(FractalError):
    """Files are not as they were when somebody decided to replace them. Nothing was changed."""

    code = "changed-meanwhile"


class NotInHistory(FractalError):
    """The files were written, but the history cannot be. The text gives the reason."""

    code = "not-in-history"


def write_configuration(
    folder: Path,
    state: Path,
    texts: Mapping[str, str],
    *,
    seen: Mapping[str, str],
    by: str,
    at_ms: int,
) -> tuple[str, ...]:
    """Write the files that differ from ``texts``, durably, all or none. Returns their names.

    ``texts`` and ``seen`` have the new and the present text of each file: if a file on the disk is
    neither, somebody has changed it meanwhile. ``by`` and ``at_ms`` (wall time) go into the
    history, which a node that applies the files then finds there.

    Raises ChangedMeanwhile, FilesNotWritten and NotInHistory.
    """
    with _locked(folder):
        on_disk = texts_on_disk(folder)
        changed = changed_files(on_disk, texts)
        foreign = [file for file in changed if on_disk[file] != seen.get(file, "")]
        if foreign:
            raise ChangedMeanwhile(f"{', '.join(foreign)} was changed meanwhile")
        if not changed:
            return ()
        with StagedFiles([_change(folder / file, texts[file]) for file in changed]) as files:
            files.commit()
    try:
        _ = store_applied(state, texts, by, at_ms)
    except OSError as error:
        raise NotInHistory(
            f"{', '.join(changed)} was written, but not noted in the history:"
            f" {error.strerror or error}"
        ) from error
    return changed


def unused_changes(
    on_disk: Mapping[str, str], newest: Applied, wanted: Mapping[str, str]
) -> tuple[str, ...]:
    """The files with changes that no node has used, and that a return to ``wanted`` would lose."""
    if on_disk in (newest.files, wanted):
        return ()
    return changed_files(on_disk, newest.files)


def why_not_writable(path: Path) -> str:
    """Why this process cannot replace a file, keeping its owner; empty if it can.

    A disk that is full is found only when the file is written.
    """
    path = path.resolve()
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):
        return f"the user of the node cannot write into the folder {path.parent}"
    try:
        owner = path.stat().st_uid
    except OSError as error:
        return f"{path} cannot be read: {error.strerror or error}"
    if owner != os.geteuid() and os.geteuid() != 0:
        return f"{path} belongs to another user than the node runs as"
    return ""


def _change(path: Path, text: str) -> FileChange:
    """A file keeps its mode and owner. A file that is missing can be read by its owner only."""
    return FileChange(path, text.encode(), None if path.exists() else PRIVATE)


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Lock the folder, so that two writers do not overwrite each other."""
    try:
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise FilesNotWritten(f"{folder} cannot be opened: {error.strerror or error}") from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)
