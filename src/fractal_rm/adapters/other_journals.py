"""The other journals of a state folder: runs are found in all, and moved from those that are free.

While runs of ``mqtt.journal`` are moved to ``up.journal``, there is a file ``mqtt.moving-to-up``.
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
from fractal_rm.adapters.log.records import refs_named
from fractal_rm.adapters.log.replay import told_in
from fractal_rm.adapters.sqlite import HistoryStore, open_runs_of
from fractal_rm.adapters.sqlite.causes import unusable
from fractal_rm.adapters.sqlite.lookup import OtherHistories
from fractal_rm.adapters.sqlite.retention import Keep
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Recovered

Look = tuple[tuple[int, int], ...]  # number and time of change, of a journal's files and its lock


class FolderOfJournals(OtherHistories):
    """All but ``own``, and but those of processes that run ``beside`` this one, by name.

    ``blobs`` are those of ``own``.
    ``carries`` tells whether this process can carry a run that came to another.
    """

    def __init__(
        self, own: Path, *, beside: Collection[str], carries: Callable[[Run], bool],
        synchronous: str, blobs: BlobFiles,
    ) -> None:  # fmt: skip
        super().__init__(own)
        self._own = own
        self._beside = beside
        self._blobs = blobs
        self.carries = carries
        self._synchronous = synchronous
        self._seen: dict[Path, Look] = {}

    def left(self) -> list[FreeJournal]:
        """Those that may be free, and were not looked through as they are now."""
        return [
            FreeJournal(path, self._own.stem, self._blobs, self._synchronous, self._note_seen)
            for path in sorted(self._own.parent.glob("*.journal"))
            if path.name != self._own.name
            and path.stem not in self._beside
            and self._seen.get(path) != _look(path)
        ]

    def _note_seen(self, path: Path) -> None:
        self._seen[path] = _look(path)

    def moves_began(self) -> bool:
        """Whether a move hither began of which it is not known that it ended."""
        return bool(self._moves())

    def forget_moves(self) -> None:
        """Each run is in one journal. Raises JournalError."""
        try:
            for file in self._moves():
                file.unlink(missing_ok=True)
        except OSError as error:
            raise unusable(self._own, error) from error

    def _moves(self) -> list[Path]:
        return list(self._own.parent.glob(f"*.moving-to-{self._own.stem}"))


class FreeJournal:
    """A journal that no process may hold. ``seen`` is told where nothing in it is left to do."""

    def __init__(
        self, path: Path, to: str, to_blobs: BlobFiles, synchronous: str,
        seen: Callable[[Path], None],
    ) -> None:  # fmt: skip
        self.name = path.stem
        self._path = path
        self._moving = path.with_suffix(f".moving-to-{to}")
        self._seen = seen
        self._to_blobs = to_blobs
        self._blobs = FolderBlobs(blob_folder(path))
        self._history = HistoryStore(
            path, keep=lambda: Keep(0, 0, 0, 0), blobs=self._blobs, synchronous=synchronous,
            monotonic_s=NodeClock.monotonic_s, passing=True,
        )  # fmt: skip
        self._is_open = self._clean = False

    def open(self) -> Recovered | None:
        """Take it, with its log in its history; None: no run is open in it.

        Raises JournalInUse, and any JournalError.
        """
        self._history.take_lock()
        if not open_runs_of(self._path):
            return None
        had = self._history.open()
        self._is_open = True
        try:
            self._bring_over(had)
        except OSError as error:
            raise unusable(self._path, error) from error
        found = self._history.recover()
        self._clean = found.clean
        return found

    def _bring_over(self, had: Projected) -> None:
        folder = log_folder(self._path)
        if not folder.is_dir():  # before format 5 there was none
            return
        log = Log(lambda: FolderDisk(folder), Blobs(self._blobs), lambda: 0)
        try:
            stories = told_in(log.open(*had), self._history.run_of, had.ended)
            log.sync()
            if stories:
                self._history.project(stories, Projected(log.end, log.end))
        finally:
            log.close()

    def begin_move(self) -> None:
        """Leave a file that says so. Raises JournalError."""
        try:
            if not self._moving.exists():
                FolderDisk(self._moving.parent).create(self._moving.name, 0)
        except OSError as error:
            raise unusable(self._moving, error) from error

    def end_move(self) -> None:
        """All that was copied is taken out. Raises JournalError."""
        try:
            self._moving.unlink(missing_ok=True)
        except OSError as error:
            raise unusable(self._moving, error) from error

    def body_of(self, run_ids: Sequence[str]) -> bytes:
        """All that is known of open runs, whose blobs are here, too, then. Raises JournalError."""
        body = self._history.body_of(run_ids)
        for ref in refs_named(body):
            file = blob_folder(self._path) / str(ref.name)
            try:
                self._to_blobs.bring_in(file.name, file)
            except OSError as error:
                raise unusable(file, error) from error
        return body

    def take_out(self, run_ids: Sequence[str]) -> None:
        """Forget open runs, durably. Raises JournalError."""
        self._history.take_out(run_ids)

    def close(self, *, seen: bool) -> None:
        """Let go; ``seen``: there is nothing to do here until somebody changes it."""
        try:
            if self._is_open:
                self._history.close(clean=self._clean)
        except JournalBlocked:
            pass  # what is left in it counts as after a crash
        finally:
            self._history.let_go()
            self._blobs.close()
        if seen:
            self._seen(self._path)


def _look(path: Path) -> Look:
    wal = path.with_name(f"{path.name}-wal")
    return tuple(map(_changed, (path, wal, path.with_suffix(".lock"))))


def _changed(file: Path) -> tuple[int, int]:
    try:
        found = file.stat()
    except OSError:
        return 0, 0
    return found.st_ino, found.st_mtime_ns
