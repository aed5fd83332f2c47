"""Verify a log while a process may write to it, and predict the result of a repair."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.disk import FolderDisk, log_folder
from fractal_rm.adapters.log.rejoin import Rejoined, rejoin
from fractal_rm.adapters.log.survey import Survey, survey
from fractal_rm.adapters.sqlite.format.meta import read_projected
from fractal_rm.adapters.sqlite.read.history_before_log import history_before_log
from fractal_rm.adapters.sqlite.read.snapshot import snapshot
from fractal_rm.adapters.sqlite.verify.blobs import loss_reason
from fractal_rm.domain.journal_errors import JournalDamaged


def log_problems(path: Path) -> list[str]:
    """Return the problems of a journal's log, as sentences.

    A read during a write may find an incomplete record. So problems are reported only if two reads
    in a row find the same ones. Damage is reported, not raised. Raises JournalError for other
    problems.
    """
    last_result = None
    try:
        while True:
            with snapshot(path, with_log=False) as db:
                positions = read_projected(db)
                has_log = positions is not None and (positions.all or log_folder(path).exists())
                if positions is None or not has_log:
                    return []
                blobs = FolderBlobs(blob_folder(path))
                log = survey(FolderDisk(log_folder(path)), positions.all, blobs, positions.ended)
                history = history_before_log(db, positions.ended)
                problems = _sentences(log, rejoin(log.parts, history, partial(loss_reason, blobs)))
            if not problems or (positions, problems) == last_result:
                return problems
            last_result = positions, problems
    except JournalDamaged as error:
        return [str(error)]


def _sentences(log: Survey, rejoined: Rejoined) -> list[str]:
    sentences = [*log.problems, *map(str, log.gaps), *rejoined.lost]
    if rejoined.undecodable:
        sentences.append(f"{rejoined.undecodable} valid frames of the log cannot be decoded")
    if rejoined.incomplete_runs:
        sentences.append(
            f"{rejoined.incomplete_runs} runs may lack facts because of the damage: a repair ends"
            f" {len(rejoined.unknown)} of them as unknown and sets"
            f" {len(rejoined.without_beginning)} of them aside as dead;"
            f" {len(rejoined.ended)} of them have ended in a known state"
        )
    return sentences
