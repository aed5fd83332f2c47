"""Read the open runs of a history at a start."""

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
from fractal_rm.adapters.log.kept_values import keeping_in
from fractal_rm.adapters.sqlite.errors import damaged
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.page_chain import (
    ChainBroken,
    PageUnreadable,
    verified_facts,
)
from fractal_rm.domain.facts import Accepted, AnyFact
from fractal_rm.domain.flow import Flow, KeepSettings, version_of
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.transitions import ImpossibleFact
from fractal_rm.engine.ports import BrokenRun

# A row of statements.OPEN_PAGES: no, id, pages, chain, flow and accepted_ms of a run; n, body and
# sum of one of its pages (None: the run has no pages).
Row = tuple[int, str, int, int, Union[str, None], int, Any, Any, Any]


class OpenRunReader:
    """Reads open runs. ``broken`` are the runs that this release cannot continue."""

    def __init__(self, db: sqlite3.Connection, path: Path, blobs: BlobFiles) -> None:
        self._db = db
        self._path = path
        self._blobs = blobs
        self._read_blob = partial(read, blobs)
        self._flows: dict[str, Flow] = {}
        self.runs: list[Run] = []
        self.broken: list[BrokenRun] = []

    def read(self) -> None:
        """Read all open runs into ``runs`` or ``broken``, oldest first.

        Raises JournalDamaged, sqlite3.Error.
        """
        rows: Iterable[Row] = self._db.execute(statements.OPEN_PAGES)
        for _, rows_of_run in groupby(rows, itemgetter(0)):
            run = self._run_or_broken(list(rows_of_run))
            if isinstance(run, Run):
                self.runs.append(run)
            else:
                self.broken.append(run)
        if self.broken and self._has_lost_all_blobs():
            raise self._damaged(f"its folder {self._blobs.where} is missing, or empty")
        (expected,) = self._db.execute(statements.EXPECTED_OPEN).fetchone()
        count = len(self.runs) + len(self.broken)
        if count != expected:
            raise self._damaged(f"it should have {expected} open runs, but has {count}")

    def _has_lost_all_blobs(self) -> bool:
        """Return whether open runs have blobs, but no blob exists. Perhaps the folder was moved."""
        return not self._blobs.names() and bool(
            self._db.execute(statements.HAS_OPEN_BLOB).fetchone()
        )

    def _run_or_broken(self, rows: list[Row]) -> Run | BrokenRun:
        """Return a run made from its rows, or a BrokenRun if the rows are invalid."""
        try:
            return self._run(rows)
        except (PageUnreadable, ImpossibleFact) as error:
            return _broken(rows[0], str(error))
        except ChainBroken as error:
            raise self._damaged(str(error)) from error
        except OSError:  # a problem of the disk, not of this run
            raise
        except Exception as error:  # noqa: BLE001 - facts of other releases may raise anything
            return _broken(rows[0], repr(error))

    def _run(self, rows: list[Row]) -> Run:
        _, run_id, page_count, last_checksum, *_ = rows[0]
        pages = [(n, body, page_sum) for *_, n, body, page_sum in rows if n is not None]
        timed = verified_facts(run_id, pages, page_count, last_checksum, self._read_blob)
        accepted_ms, first = timed[0] if timed else (0, None)
        flow = self._flow(first)
        if flow is None:
            raise PageUnreadable(f"run {run_id} has no accepted fact")
        return fold(Run(run_id, flow, accepted_ms), [fact for _, fact in timed])

    def _flow(self, first: AnyFact | None) -> Flow | None:
        """Return the flow with which a run began; None if its first fact is not `Accepted`."""
        if not isinstance(first, Accepted):
            return None
        version = first.version
        cached_flow = self._flows.get(version)
        if cached_flow is not None:
            return cached_flow
        row = self._db.execute("SELECT body FROM flows WHERE version = ?", (version,)).fetchone()
        body = row[0] if row else b""
        if version_of(body) != version:
            raise ChainBroken(f"flow version {version} does not match its checksum")
        try:
            flow = msgspec.json.decode(body, type=Flow)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise PageUnreadable(f"flow version {version}: {error}") from error
        self._flows[version] = flow
        return flow

    def _damaged(self, problem: str) -> JournalDamaged:
        return damaged(self._path, f"is damaged: {problem}. Nothing was changed")


def _broken(row: Row, reason: str) -> BrokenRun:
    """Return a run that cannot be continued. Only the values of its row are known."""
    _, run_id, _, _, flow_id, accepted_ms, *_ = row
    return BrokenRun(Run(run_id, Flow(flow_id or ""), accepted_ms, state=State.ACCEPTED), reason)


def load_run(db: sqlite3.Connection, run_id: str) -> Run | None:
    """Return a run without the steps of its flow; None if the run is missing or invalid.

    Its flow has only the id and the settings of KEEP and MASK.
    """
    row = db.execute(statements.ONE_RUN, (run_id,)).fetchone()
    if row is None:
        return None
    no, page_count, last_checksum, accepted_ms, flow_id = row
    pages = db.execute(statements.READ_PAGES_OF_RUN, (no,))
    try:
        timed = verified_facts(run_id, pages, page_count, last_checksum)
        flow = Flow(flow_id or "", keeping=keeping_of(db, timed[0][1] if timed else None))
        return fold(Run(run_id, flow, accepted_ms), [fact for _, fact in timed])
    except (ChainBroken, ImpossibleFact):
        return None


def keeping_of(db: sqlite3.Connection, first: AnyFact | None) -> KeepSettings | msgspec.UnsetType:
    """Return the KEEP and MASK of the flow with which a run began. ``first`` is its first fact."""
    if not isinstance(first, Accepted):
        return msgspec.UNSET
    row = db.execute("SELECT body FROM flows WHERE version = ?", (first.version,)).fetchone()
    return keeping_in(row[0]) if row else msgspec.UNSET
