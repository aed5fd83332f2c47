"""Look at a whole journal: every fact of every run, the accounts, and SQLite's own structure."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from itertools import groupby, islice
from pathlib import Path

import msgspec

from fractal_rm.adapters.sqlite.chain import ChainBroken, verified
from fractal_rm.adapters.sqlite.history import reading
from fractal_rm.adapters.sqlite.schema import EVERY_PAGE
from fractal_rm.domain.flow import Flow, version_of
from fractal_rm.domain.run import ImpossibleFact, Run, fold

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

    Raises JournalDamaged where it cannot be read at all.
    """
    with reading(path) as db:
        return _report(path, db)


def _report(path: Path, db: sqlite3.Connection) -> JournalReport:
    totals: dict[str, int] = dict(db.execute("SELECT name, value FROM meta"))
    runs, open_runs = db.execute("SELECT count(*), sum(settled_ms IS NULL) FROM runs").fetchone()
    problems = [line for (line,) in db.execute(f"PRAGMA integrity_check({SHOWN})") if line != "ok"]
    expected = totals.get("accepted", 0) - totals.get("settled", 0)
    if (open_runs or 0) != expected:
        problems.append(f"it should hold {expected} unfinished runs and holds {open_runs or 0}")
    facts, broken = _facts(db)
    problems += broken + list(islice(_broken_flows(db), SHOWN))
    return JournalReport(path.stem, runs, open_runs or 0, facts, problems)


def _facts(db: sqlite3.Connection) -> tuple[int, list[str]]:
    """How many facts hold, and what does not."""
    facts, broken = 0, list[str]()
    for head, rows in groupby(db.execute(EVERY_PAGE), key=lambda row: row[:6]):
        run_id, count, last, *row = head
        try:
            page = verified(run_id, [each[6:] for each in rows if each[6] is not None], count, last)
            run = fold(Run(run_id, Flow(""), 0), [fact for _, fact in page])
            facts += len(page)
        except (ChainBroken, ImpossibleFact) as error:
            broken.append(str(error))
        except Exception as error:  # noqa: BLE001 - facts of any release may come here
            broken.append(f"the facts of run {run_id} make no run: {error!r}")
        else:
            if row != [run.state, run.reason, run.node]:
                broken.append(f"the row of run {run_id} does not say what its facts say")
    return facts, broken[:SHOWN]


def _broken_flows(db: sqlite3.Connection) -> Iterator[str]:
    for version, body in db.execute("SELECT version, body FROM flows"):
        if version_of(body) != version:
            yield f"flow version {version} does not match its checksum"
