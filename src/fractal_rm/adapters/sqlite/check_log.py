"""Whether a log holds, read beside the process that writes it, and what a repair makes of it."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.disk import FolderDisk, log_folder
from fractal_rm.adapters.log.rejoin import Rejoined, rejoin
from fractal_rm.adapters.log.survey import Survey, survey
from fractal_rm.adapters.sqlite.before_log import history_in
from fractal_rm.adapters.sqlite.history import reading
from fractal_rm.adapters.sqlite.notes import projected
from fractal_rm.adapters.sqlite.repair_blobs import why_lost
from fractal_rm.domain.journal_errors import JournalDamaged


def log_problems(path: Path) -> list[str]:
    """What does not hold in the log of a journal, as sentences.

    While a process writes, a look may find half of something: what two looks find is so. Raises
    JournalError where that is no damage.
    """
    before = None
    try:
        while True:
            with reading(path, with_log=False) as db:
                had = projected(db)
                if had is None or not (had.all or log_folder(path).exists()):  # not begun
                    return []
                blobs = FolderBlobs(blob_folder(path))
                found = survey(FolderDisk(log_folder(path)), had.all, blobs, had.ended)
                said = _said(
                    found, rejoin(found.parts, history_in(db, had.ended), partial(why_lost, blobs))
                )
            if not said or (had, said) == before:
                return said
            before = had, said
    except JournalDamaged as error:
        return [str(error)]


def _said(found: Survey, rejoined: Rejoined) -> list[str]:
    said = [*found.problems, *map(str, found.gaps), *rejoined.lost]
    if rejoined.unread:
        said.append(f"{rejoined.unread} frames of the log hold, and cannot be read")
    if rejoined.touched:
        said.append(
            f"that leaves {rejoined.touched} runs not whole: after a repair {len(rejoined.unknown)}"
            f" end as unknown, {len(rejoined.headless)} are set aside as dead, and of"
            f" {len(rejoined.ended)} the end is known"
        )
    return said
