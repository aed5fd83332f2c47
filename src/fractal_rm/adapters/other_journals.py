"""The other journals of a state folder: finds trigger ids in them, and adopts free journals.

A journal is free if no process has it open. To adopt a journal means to move its open runs to the
journal of this process. For example, while runs of ``mqtt.journal`` are moved to ``up.journal``,
the file ``mqtt.moving-to-up`` exists.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from fractal_rm.adapters.clock import NodeClock
from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import BlobFiles, Blobs
from fractal_rm.adapters.log.disk import FolderDisk, log_folder
from fractal_rm.adapters.log.history import Projected
from fractal_rm.adapters.log.log import Log
from fractal_rm.adapters.log.records import blob_refs_of
from fractal_rm.adapters.log.replay import updates_in
from fractal_rm.adapters.sqlite import HistoryStore, open_runs_of
from fractal_rm.adapters.sqlite.errors import journal_error
from fractal_rm.adapters.sqlite.read.other_histories import OtherHistories
from fractal_rm.adapters.sqlite.write.limits import HistoryLimits
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Recovered

Version = tuple[tuple[int, int], ...]  # inode and modification time of each file of a journal


class FolderOfJournals(OtherHistories):
    """All other journals in the folder of this process's journal, which is at ``own_path``.

    Journals named in ``not_adopted`` are never adopted. ``blobs`` are the blobs of this process.
    ``can_execute`` tells whether this process can execute a run that another process accepted.
    """

    def __init__(
        self, own_path: Path, *, not_adopted: Collection[str], can_execute: Callable[[Run], bool],
        synchronous: str, blobs: BlobFiles,
    ) -> None:  # fmt: skip
        super().__init__(own_path)
        self._not_adopted = not_adopted
        self._blobs = blobs
        self.can_execute = can_execute
        self._synchronous = synchronous
        self._done: dict[Path, Version] = {}

    def free_journals(self) -> list[FreeJournal]:
        """The journals that may be free.

        A journal whose runs were all moved is left out until its files change.
        """
        return [
            FreeJournal(path, self._own_path.stem, self._blobs, self._synchronous, self._note_done)
            for path in sorted(self._own_path.parent.glob("*.journal"))
            if path.name != self._own_path.name
            and path.stem not in self._not_adopted
            and self._done.get(path) != _version(path)
        ]

    def _note_done(self, path: Path) -> None:
        self._done[path] = _version(path)

    def has_unfinished_moves(self) -> bool:
        """Whether a move of runs to this process's journal was begun and perhaps not completed."""
        return bool(self._moves())

    def clear_moves(self) -> None:
        """Delete the files that record moves. Raises JournalError."""
        try:
            for file in self._moves():
                file.unlink(missing_ok=True)
        except OSError as error:
            raise journal_error(self._own_path, error) from error

    def _moves(self) -> list[Path]:
        return list(self._own_path.parent.glob(f"*.moving-to-{self._own_path.stem}"))


class FreeJournal:
    """A journal that may be free.

    Its runs are moved to the journal named ``target``, and their blobs to ``target_blobs``.
    ``on_done`` is called when there is nothing more to move.
    """

    def __init__(
        self, path: Path, target: str, target_blobs: BlobFiles, synchronous: str,
        on_done: Callable[[Path], None],
    ) -> None:  # fmt: skip
        self.name = path.stem
        self._path = path
        self._moving = path.with_suffix(f".moving-to-{target}")
        self._on_done = on_done
        self._target_blobs = target_blobs
        self._blobs = FolderBlobs(blob_folder(path))
        self._history = HistoryStore(
            path,
            limits=lambda: HistoryLimits(0, 0, 0, 0),
            blobs=self._blobs,
            synchronous=synchronous,
            monotonic_s=NodeClock.monotonic_s,
            brief_lock=True,
        )
        self._is_open = self._clean = False

    def open(self) -> Recovered | None:
        """Lock the journal, copy its log into its history, and return its open runs.

        Returns None if the journal has no open run. Raises JournalInUse or another JournalError.
        """
        self._history.take_lock()
        if not open_runs_of(self._path):
            return None
        positions = self._history.open()
        self._is_open = True
        try:
            self._copy_log(positions)
        except OSError as error:
            raise journal_error(self._path, error) from error
        recovered = self._history.recover()
        self._clean = recovered.clean
        return recovered

    def _copy_log(self, positions: Projected) -> None:
        folder = log_folder(self._path)
        if not folder.is_dir():  # before format 5, a journal has no log
            return
        log = Log(FolderDisk(folder), Blobs(self._blobs), lambda: 0)
        try:
            history = self._history
            bodies = log.open(*positions)
            updates = updates_in(bodies, history.run_of, positions.ended, history.flow_body)
            log.sync()
            if updates:
                self._history.project(updates, Projected(all=log.end, ended=log.end))
        finally:
            log.close()

    def begin_move(self) -> None:
        """Create a file that records the move. Raises JournalError."""
        try:
            if not self._moving.exists():
                FolderDisk(self._moving.parent).create(self._moving.name, 0)
        except OSError as error:
            raise journal_error(self._moving, error) from error

    def end_move(self) -> None:
        """Delete the file that records the move. Raises JournalError."""
        try:
            self._moving.unlink(missing_ok=True)
        except OSError as error:
            raise journal_error(self._moving, error) from error

    def body_of(self, run_ids: Sequence[str]) -> bytes:
        """Encode open runs as the body of a log, and copy their blobs. Raises JournalError."""
        body = self._history.encode_open_runs(run_ids)
        for ref in blob_refs_of(body):
            file = blob_folder(self._path) / str(ref.name)
            try:
                self._target_blobs.link_or_copy(file.name, file)
            except OSError as error:
                raise journal_error(file, error) from error
        return body

    def delete_moved(self, run_ids: Sequence[str]) -> None:
        """Delete open runs durably. Raises JournalError."""
        self._history.delete_open(run_ids)

    def close(self, *, done: bool) -> None:
        """Close and unlock the journal. ``done``: skip this journal until its files change."""
        try:
            if self._is_open:
                self._history.close(clean=self._clean)
        except JournalBlocked:
            pass  # the next start of this journal counts as a start after a crash
        finally:
            self.abandon()
        if done:
            self._on_done(self._path)

    def abandon(self) -> None:
        """Unlock the journal without recording that it was closed, as if the process was killed."""
        self._history.abandon()
        self._blobs.close()


def _version(path: Path) -> Version:
    wal = path.with_name(f"{path.name}-wal")
    return tuple(map(_file_version, (path, wal, path.with_suffix(".lock"))))


def _file_version(file: Path) -> tuple[int, int]:
    try:
        status = file.stat()
    except OSError:
        return 0, 0
    return status.st_ino, status.st_mtime_ns
