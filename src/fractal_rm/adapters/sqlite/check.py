"""Look at a whole journal: every fact of every run, the accounts, and SQLite's own structure."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import msgspec

from fractal_rm.adapters.sqlite.chain import ChainBroken, verified
from fractal_rm.adapters.sqlite.history import SUMMARY, reading, summary_of
from fractal_rm.adapters.sqlite.schema import EVERY_PAGE, EXPECTED_OPEN
from fractal_rm.domain.errors import JournalDamaged
from fractal_rm.domain.flow import Flow, version_of
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
    try:
        with reading(path) as db:
            return _report(path, db)
    except JournalDamaged as error:
        return JournalReport(path.stem, 0, 0, 0, [str(error)])


def _report(path: Path, db: sqlite3.Connection) -> JournalReport:
    runs, open_runs = db.execute("SELECT count(*), sum(settled_ms IS NULL) FROM runs").fetchone()
    problems = [line for (line,) in db.execute(f"PRAGMA integrity_check({SHOWN})") if line != "ok"]
    (expected,) = db.execute(EXPECTED_OPEN).fetchone()
    if (open_runs or 0) != (expected or 0):
        held = f"and holds {open_runs or 0}"
        problems.append(f"it should hold {expected or 0} unfinished runs {held}")
    facts, broken = _facts(db)
    problems += broken
    for found in (_broken_rows(db, path), _broken_flows(db)):
        problems += islice(found, SHOWN)
    return JournalReport(path.stem, runs, open_runs or 0, facts, problems)


def _facts(db: sqlite3.Connection) -> tuple[int, list[str]]:
    """How many facts hold, and what does not."""
    facts, broken = 0, list[str]()
    for head, rows in groupby(db.execute(EVERY_PAGE), key=lambda row: row[:7]):
        run_id, count, last, *row = head
        try:
            page = verified(run_id, [each[7:] for each in rows if each[7] is not None], count, last)
            run = fold(Run(run_id, Flow(""), 0), [fact for _, fact in page])
            flow = getattr(page[0][1], "flow", None)  # none where it never became a run
            facts += len(page)
        except ChainBroken as error:
            broken.append(str(error))
        except ImpossibleFact as error:
            broken.append(f"the facts of run {run_id} make no run: {error}")
        except Exception as error:  # noqa: BLE001 - facts of any release may come here
            broken.append(f"the facts of run {run_id} make no run: {error!r}")
        else:
            if row != [flow, run.state, run.reason, run.node]:
                broken.append(f"the row of run {run_id} does not say what its facts say")
    return facts, broken[:SHOWN]


def _broken_rows(db: sqlite3.Connection, path: Path) -> Iterator[str]:
    return filter(None, (_wrong_with(row, path) for row in db.execute(SUMMARY)))


def _wrong_with(row: tuple[object, ...], path: Path) -> str | None:
    try:
        summary_of(row, path)
    except ChainBroken as error:
        return str(error)
    return None


def _broken_flows(db: sqlite3.Connection) -> Iterator[str]:
    for version, body in db.execute("SELECT version, body FROM flows"):
        if version_of(body) != version:
            yield f"flow version {version} does not match its checksum"
