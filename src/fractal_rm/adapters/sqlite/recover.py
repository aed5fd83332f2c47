"""Read the runs that a journal holds open, at a start."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
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
from fractal_rm.domain.errors import JournalDamaged
from fractal_rm.domain.facts import Accepted, AnyFact
from fractal_rm.domain.flow import Flow, version_of
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.transitions import ImpossibleFact
from fractal_rm.engine.ports import BrokenRun

PageRow = tuple[int, bytes, int]  # n, body, sum
OpenRow = tuple[int, str, int, int, Union[str, None], int]  # as in statements.OPEN_RUNS
_NONE: tuple[int | None, Iterator[Any]] = None, iter(())


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
        for row, pages in self._rows():
            found = self._found(row, pages)
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

    def _rows(self) -> Iterator[tuple[OpenRow, list[PageRow]]]:
        """The rows of open runs, each with its pages. Both come by number: one run at a time."""
        all_pages = groupby(self._db.execute(statements.OPEN_PAGES), itemgetter(0))
        no, pages = next(all_pages, _NONE)
        for row in self._db.execute(statements.OPEN_RUNS):
            if no == row[0]:
                yield row, [(n, body, stored) for _, n, body, stored in pages]
                no, pages = next(all_pages, _NONE)
            else:
                yield row, []

    def _found(self, row: OpenRow, pages: list[PageRow]) -> Run | BrokenRun:
        """The run of a row; what is wrong with it alone keeps no other from going on."""
        try:
            return self._recovered(row, pages)
        except (Unreadable, ImpossibleFact) as error:
            return _broken(row, str(error))
        except ChainBroken as error:
            raise self._damaged(str(error)) from error
        except OSError:  # it says nothing of the run
            raise
        except Exception as error:  # noqa: BLE001 - facts of any release may come here
            return _broken(row, repr(error))

    def _recovered(self, row: OpenRow, pages: list[PageRow]) -> Run:
        _, run_id, count, last, _, _ = row
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


def _broken(row: OpenRow, why: str) -> BrokenRun:
    """A run of which no more is known than its row says."""
    _, run_id, _, _, flow_id, accepted_ms = row
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
