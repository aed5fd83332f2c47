"""Look at a whole journal: its log, every row and every fact, the accounts, SQLite's structure."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import groupby, islice
from pathlib import Path

import msgspec

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.sqlite import statements, verify
from fractal_rm.adapters.sqlite.blobs import has_in, look_at_blobs
from fractal_rm.adapters.sqlite.chain import ChainBroken, verified
from fractal_rm.adapters.sqlite.check_log import log_problems
from fractal_rm.adapters.sqlite.history import reading
from fractal_rm.adapters.sqlite.prepare import format_of
from fractal_rm.adapters.sqlite.schema import FORMAT, SUMMED_SINCE
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.transitions import ImpossibleFact

SHOWN = 20


class JournalReport(msgspec.Struct, frozen=True):
    """What was looked at, and everything that does not hold (at most SHOWN of each kind)."""

    journal: str
    runs: int
    open_runs: int
    facts: int
    problems: list[str]


def check_journal(path: Path) -> JournalReport:
    """Read a journal from end to end; the node that writes it may go on meanwhile.

    Raises JournalError where that is no damage: a user who may not, another release.
    """
    report = _look_at(path)
    problems = dict.fromkeys((*report.problems, *log_problems(path)))
    return msgspec.structs.replace(report, problems=list(problems))


def _look_at(path: Path) -> JournalReport:
    """At the history, with the log laid over it, or alone where that cannot be."""
    for with_log in (True, False):
        try:
            with reading(path, with_log=with_log) as db:
                return _report(path, db)
        except JournalDamaged as error:  # noqa: PERF203 - of the log or of the history
            damage = str(error)
    return JournalReport(path.stem, 0, 0, 0, [damage])


class _Facts:
    """How many facts hold."""

    count = 0


def _report(path: Path, db: sqlite3.Connection) -> JournalReport:
    facts = _Facts()
    looks: list[Callable[[], Iterator[str]]] = [
        lambda: _structure(db),
        lambda: verify.wrong_counts(db),
        lambda: _broken_facts(db, facts),
        lambda: verify.broken_run_rows(db.execute(statements.EVERY_RUN)),
    ]
    if format_of(db, path) >= SUMMED_SINCE:
        looks += [
            lambda: _broken_blobs(db, path),
            lambda: verify.broken_rows("trigger id", db.execute("SELECT * FROM keys")),
            lambda: verify.broken_small(db),
            lambda: verify.lost_references(db),
        ]
    problems = [problem for look in looks for problem in _found_by(look)]
    return JournalReport(path.stem, *_runs(db), facts.count, list(dict.fromkeys(problems)))


def _found_by(look: Callable[[], Iterator[str]]) -> list[str]:
    """What one look finds; where SQLite cannot read on, the others still look."""
    found = list[str]()
    try:
        for problem in islice(look(), SHOWN):
            found.append(problem)
    except Exception as error:  # noqa: BLE001 - what is damaged may be of any type
        found.append(f"cannot be read on ({error})")
    return found


def _runs(db: sqlite3.Connection) -> tuple[int, int]:
    try:
        runs, still_open = db.execute(
            "SELECT count(*), coalesce(sum(settled_ms IS NULL), 0) FROM runs"
        ).fetchone()
    except sqlite3.Error:
        return 0, 0
    return runs, still_open


def _structure(db: sqlite3.Connection) -> Iterator[str]:
    """What SQLite finds; it calls many damaged files good."""
    for (line,) in db.execute(f"PRAGMA integrity_check({SHOWN})"):
        if line != "ok":
            yield line


def _broken_blobs(db: sqlite3.Connection, path: Path) -> Iterator[str]:
    if format_of(db, path) != FORMAT:
        return

    def has(no: int, name: str) -> bool:
        """Now, not when this look began."""
        with reading(path, with_log=False) as now:
            return has_in(now)(no, name)

    for _, problems in look_at_blobs(db, FolderBlobs(blob_folder(path)), has):
        yield from problems


def _broken_facts(db: sqlite3.Connection, facts: _Facts) -> Iterator[str]:
    for head, rows in groupby(db.execute(statements.EVERY_PAGE), key=lambda row: row[:7]):
        run_id, count, last, *row = head
        try:
            page = verified(run_id, [each[7:] for each in rows if each[7] is not None], count, last)
            run = fold(Run(run_id, Flow(""), 0), [fact for _, fact in page])
            flow = getattr(page[0][1], "flow", None)  # none where it never became a run
            facts.count += len(page)
        except ChainBroken as error:
            yield str(error)
        except ImpossibleFact as error:
            yield f"the facts of run {verify.shown(run_id)} make no run: {error}"
        except Exception as error:  # noqa: BLE001 - facts of any release may come here
            yield f"the facts of run {verify.shown(run_id)} make no run: {error!r}"
        else:
            if row != [flow, run.state, run.reason, run.node]:
                yield f"the row of run {verify.shown(run_id)} does not say what its facts say"
