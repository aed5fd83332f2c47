"""Verify all of a journal: log, rows, facts, counts, and the structure of the SQLite file."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from itertools import groupby, islice
from pathlib import Path

import msgspec

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.sqlite.check.log import log_problems
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.page_chain import ChainBroken, verified_facts
from fractal_rm.adapters.sqlite.format.prepare import format_of
from fractal_rm.adapters.sqlite.format.schema import CHECKSUMS_SINCE, FORMAT, HANDLED_SINCE
from fractal_rm.adapters.sqlite.read.snapshot import snapshot
from fractal_rm.adapters.sqlite.verify import rows as verify
from fractal_rm.adapters.sqlite.verify.blobs import blob_query, verify_blobs
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.transitions import ImpossibleFact

MAX_PROBLEMS = 20


class JournalReport(msgspec.Struct, frozen=True):
    """The number of verified runs and facts, and at most MAX_PROBLEMS problems of each check."""

    journal: str
    runs: int
    open_runs: int
    facts: int
    problems: list[str]


def check_journal(path: Path) -> JournalReport:
    """Verify a journal from end to end. A node may write to it meanwhile.

    Damage is reported, not raised. Raises JournalError for other problems, such as a missing
    permission, or a journal of another release.
    """
    report = _check_history(path)
    problems = dict.fromkeys((*report.problems, *log_problems(path)))
    return msgspec.structs.replace(report, problems=list(problems))


def _check_history(path: Path) -> JournalReport:
    """Check the history together with the log. If the log is damaged, check the history alone."""
    for with_log in (True, False):
        try:
            with snapshot(path, with_log=with_log) as db:
                return _report(path, db)
        except JournalDamaged as error:  # noqa: PERF203 - retry without the log
            damage = str(error)
    return JournalReport(path.stem, runs=0, open_runs=0, facts=0, problems=[damage])


class _FactCounter:
    count = 0  # the number of valid facts


def _report(path: Path, db: sqlite3.Connection) -> JournalReport:
    fact_counter = _FactCounter()
    checks: list[Callable[[], Iterator[str]]] = [
        lambda: _structure(db),
        lambda: verify.wrong_counts(db),
        lambda: _invalid_facts(db, fact_counter),
        lambda: verify.invalid_run_rows(db.execute(statements.ALL_RUNS)),
    ]
    if format_of(db, path) >= CHECKSUMS_SINCE:
        checks += [
            lambda: _invalid_blobs(db, path),
            lambda: verify.invalid_rows("trigger id", db.execute("SELECT * FROM keys")),
            lambda: verify.invalid_small_tables(db),
            lambda: verify.missing_references(db),
        ]
    if format_of(db, path) >= HANDLED_SINCE:
        checks += [lambda: verify.runs_outside_blocks(db), lambda: verify.invalid_counts(db)]
    problems = [problem for check in checks for problem in _problems_of(check)]
    runs, open_runs = _count_runs(db)
    return JournalReport(
        path.stem, runs, open_runs, fact_counter.count, list(dict.fromkeys(problems))
    )


def _problems_of(check: Callable[[], Iterator[str]]) -> list[str]:
    """Return the problems that one check finds. A failure of the check is a problem, too."""
    problems = list[str]()
    try:
        for problem in islice(check(), MAX_PROBLEMS):
            problems.append(problem)
    except Exception as error:  # noqa: BLE001 - damaged content may raise anything
        problems.append(f"reading stopped at an error ({error})")
    return problems


def _count_runs(db: sqlite3.Connection) -> tuple[int, int]:
    """Return the number of runs, and the number of open runs."""
    try:
        runs, still_open = db.execute(
            "SELECT count(*), coalesce(sum(settled_ms IS NULL), 0) FROM runs"
        ).fetchone()
    except sqlite3.Error:
        return 0, 0
    return runs, still_open


def _structure(db: sqlite3.Connection) -> Iterator[str]:
    """Run SQLite's own check, which does not find all damage."""
    for (line,) in db.execute(f"PRAGMA integrity_check({MAX_PROBLEMS})"):
        if line != "ok":
            yield line


def _invalid_blobs(db: sqlite3.Connection, path: Path) -> Iterator[str]:
    if format_of(db, path) != FORMAT:
        return

    def still_has_blob(no: int, name: str) -> bool:
        """Return whether the run still has the blob, which may have been dropped meanwhile."""
        with snapshot(path, with_log=False) as current_db:
            return blob_query(current_db)(no, name)

    for _, problems in verify_blobs(db, FolderBlobs(blob_folder(path)), still_has_blob):
        yield from problems


def _invalid_facts(db: sqlite3.Connection, fact_counter: _FactCounter) -> Iterator[str]:
    # A row has the values of a run, then the number, the body and the checksum of a page.
    rows = db.execute(statements.ALL_PAGES)
    for run_values, rows_of_run in groupby(rows, key=lambda row: row[:-3]):
        run_id, page_count, last_checksum, *row = run_values
        pages = [
            (number, body, checksum)
            for *_, number, body, checksum in rows_of_run
            if number is not None
        ]
        try:
            timed_facts = verified_facts(run_id, pages, page_count, last_checksum)
            facts = [fact for _, fact in timed_facts]
            run = fold(Run(run_id, Flow(""), 0), facts)
            flow = getattr(facts[0], "flow", None)  # None for a dead letter
            fact_counter.count += len(facts)
        except ChainBroken as error:
            yield str(error)
        except ImpossibleFact as error:
            yield f"the facts of run {verify.printable(run_id)} are invalid: {error}"
        except Exception as error:  # noqa: BLE001 - facts of other releases may raise anything
            yield f"the facts of run {verify.printable(run_id)} are invalid: {error!r}"
        else:
            if row != [flow, run.state, run.reason, run.node]:
                yield f"the row of run {verify.printable(run_id)} does not match its facts"
