"""Read the runs that a journal holds open, at a start."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from functools import partial
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, Union

import msgspec

from fractal_rm.adapters.log.blobs import BlobFiles, read
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.causes import damaged
from fractal_rm.adapters.sqlite.chain import ChainBroken, Unreadable, verified
from fractal_rm.domain.facts import Accepted, AnyFact
from fractal_rm.domain.flow import Flow, version_of
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.transitions import ImpossibleFact
from fractal_rm.engine.ports import BrokenRun

# As in statements.OPEN_PAGES: no, id, pages, chain, flow, accepted_ms of a run; n, body, sum of one
# of its pages, None where it has none.
Row = tuple[int, str, int, int, Union[str, None], int, Any, Any, Any]


class OpenRuns:
    """What `read` has found: ``runs`` and ``broken``."""

    def __init__(self, db: sqlite3.Connection, path: Path, blobs: BlobFiles) -> None:
        self._db = db
        self._path = path
        self._blobs = blobs
        self._read = partial(read, blobs)
        self._flows: dict[str, Flow] = {}
        self.runs: list[Run] = []
        self.broken: list[BrokenRun] = []

    def read(self) -> None:
        """Read them all, oldest first. Raises JournalDamaged, sqlite3.Error."""
        rows: Iterable[Row] = self._db.execute(statements.OPEN_PAGES)
        for _, of_run in groupby(rows, itemgetter(0)):
            found = self._found(list(of_run))
            if isinstance(found, Run):
                self.runs.append(found)
            else:
                self.broken.append(found)
        if self.broken and self._is_folder_lost():
            raise self._damaged(f"its folder {self._blobs.where} is missing, or empty")
        (expected,) = self._db.execute(statements.EXPECTED_OPEN).fetchone()
        held = len(self.runs) + len(self.broken)
        if held != expected:
            raise self._damaged(f"it should hold {expected} unfinished runs and holds {held}")

    def _is_folder_lost(self) -> bool:
        """Whether each blob of open runs is: somebody moved the folder, and can put it back."""
        return not self._blobs.names() and bool(
            self._db.execute(statements.AN_OPEN_BLOB).fetchone()
        )

    def _found(self, rows: list[Row]) -> Run | BrokenRun:
        """The run of its rows; what is wrong with it alone keeps no other from going on."""
        try:
            return self._recovered(rows)
        except (Unreadable, ImpossibleFact) as error:
            return _broken(rows[0], str(error))
        except ChainBroken as error:
            raise self._damaged(str(error)) from error
        except OSError:  # it says nothing of the run
            raise
        except Exception as error:  # noqa: BLE001 - facts of any release may come here
            return _broken(rows[0], repr(error))

    def _recovered(self, rows: list[Row]) -> Run:
        _, run_id, count, last, *_ = rows[0]
        pages = [row[6:] for row in rows if row[6] is not None]
        timed = verified(run_id, pages, count, last, self._read)
        flow = self._flow(timed[0][1]) if timed else None
        if flow is None:
            raise Unreadable(f"run {run_id} has no accepted fact")
        return fold(Run(run_id, flow, timed[0][0]), [fact for _, fact in timed])

    def _flow(self, first: AnyFact) -> Flow | None:
        """The flow that a run began with."""
        if not isinstance(first, Accepted):
            return None
        version = first.version
        known = self._flows.get(version)
        if known is not None:
            return known
        row = self._db.execute("SELECT body FROM flows WHERE version = ?", (version,)).fetchone()
        body = row[0] if row else b""
        if version_of(body) != version:
            raise ChainBroken(f"flow version {version} does not match its checksum")
        try:
            flow = msgspec.json.decode(body, type=Flow)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Unreadable(f"flow version {version}: {error}") from error
        self._flows[version] = flow
        return flow

    def _damaged(self, what: str) -> JournalDamaged:
        return damaged(self._path, f"is damaged: {what}. Nothing was changed")


def _broken(row: Row, why: str) -> BrokenRun:
    """A run of which no more is known than its row says."""
    _, run_id, _, _, flow_id, accepted_ms, *_ = row
    return BrokenRun(Run(run_id, Flow(flow_id or ""), accepted_ms, state=State.ACCEPTED), why)


def run_from(db: sqlite3.Connection, run_id: str) -> Run | None:
    """A run as its pages make it, without its flow's steps; None: they make none."""
    row = db.execute(statements.ONE_RUN, (run_id,)).fetchone()
    if row is None:
        return None
    no, count, last, accepted_ms, flow_id = row
    try:
        timed = verified(run_id, db.execute(statements.PAGES, (no,)), count, last)
        return fold(Run(run_id, Flow(flow_id or ""), accepted_ms), [fact for _, fact in timed])
    except (ChainBroken, ImpossibleFact):
        return None
