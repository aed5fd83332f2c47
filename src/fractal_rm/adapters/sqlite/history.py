"""All journals of a state folder, read-only: readers never hold up the writer (WAL)."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Generator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec

from fractal_rm.adapters.log.blob_folder import FolderBlobs, blob_folder
from fractal_rm.adapters.log.blobs import read
from fractal_rm.adapters.sqlite.chain import ChainBroken, what_holds
from fractal_rm.adapters.sqlite.lists import Row, Wanted, newest, one_by_id
from fractal_rm.adapters.sqlite.migrations import show_as_now
from fractal_rm.adapters.sqlite.prepare import check_files, format_of
from fractal_rm.adapters.sqlite.recent import lay_over
from fractal_rm.adapters.sqlite.schema import LOSSES, SUMMED_SINCE
from fractal_rm.adapters.sqlite.statements import PAGES, READ_NOTE
from fractal_rm.adapters.sqlite.sums import add_row_sum, decode_any, holds
from fractal_rm.domain.journal_errors import JournalDamaged, JournalUnreadable
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Ledger, RunDetail, RunPage, RunSummary, TimedFact

# Runs whose pages were dropped for their age are in neither count.
_STATES = (
    "SELECT flow, state, count(*), sum(duplicates) FROM runs WHERE pages > 0 GROUP BY flow, state"
)
_RECEIVED = (
    "SELECT json_extract(CAST(body AS TEXT), '$[0][1].flow') AS of, count(*) FROM pages WHERE n = 1"
    " AND json_valid(CAST(body AS TEXT)) GROUP BY of"
)
# Few pages hold the words, and few of those mean it: a payload may hold them too.
_MAYBE_TWICE = """
    SELECT runs.flow, count(DISTINCT runs.no)
    FROM pages JOIN runs ON runs.no = pages.run,
         json_each(iif(json_valid(CAST(pages.body AS TEXT)), CAST(pages.body AS TEXT), NULL))
    WHERE instr(pages.body, CAST('"maybe_twice":true' AS BLOB))
          AND json_extract(value, '$[1].maybe_twice')
    GROUP BY runs.flow
"""


class Losses(msgspec.Struct, frozen=True):
    """``places`` of the log are gone, and what came in them; ``runs`` are not whole for that."""

    places: int
    runs: int


class SqliteHistory:
    """Port `History`. Opens a connection for each question: questions are rare.

    Raises JournalError where a journal, or the folder, cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def runs(
        self,
        *,
        state: State | None = None,
        flow: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> list[RunSummary]:
        """The newest runs that can be read; see `page`."""
        return self.page(state=state, flow=flow, limit=limit, before=before).runs

    def page(
        self,
        *,
        state: State | None = None,
        flow: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> RunPage:
        """The newest runs first; see the port."""
        wanted = Wanted(state and state.value, flow, before, limit)
        found: list[RunSummary] = []
        unreadable: list[str] = []
        for path in self._journals():
            broken: list[str] = []
            try:
                with reading(path, broken=broken) as db:
                    rows, rows_broken = newest(db, wanted)
                    found += [summary_of(row, path) for row in rows]
                    broken += rows_broken
            except JournalDamaged as error:  # the others are read all the same
                broken.append(str(error))
            unreadable += [f"{path.stem}: {each}" for each in broken]
        once = {run.id: run for run in found}  # while one is moved, it may be in two journals
        runs = sorted(once.values(), key=lambda run: run.id, reverse=True)
        return RunPage(runs[:limit], unreadable)

    def run(self, run_id: str) -> RunDetail | None:
        """One run, or None; see the port. Raises JournalDamaged where it may be in what is lost."""
        damage: JournalDamaged | None = None
        for path in self._journals():
            broken: list[str] = []
            try:
                with reading(path, broken=broken) as db:
                    row = one_by_id(db, run_id)
                    if row is not None:
                        facts, not_whole = _facts(db, row, path)
                        said = not_whole or next(iter(broken), None)
                        return RunDetail(summary_of(row, path), facts, said)
            except JournalDamaged as error:  # another journal may have it
                damage = error
            else:
                damage = JournalDamaged(broken[0]) if broken else damage
        if damage is not None:
            raise damage
        return None

    def ledger(self) -> list[Ledger]:
        """The accounts; see the port. A log that is damaged is left out."""
        states: dict[str | None, Counter[State]] = {}
        received: Counter[str | None] = Counter()
        duplicates: Counter[str | None] = Counter()
        maybe_twice: Counter[str | None] = Counter()
        for path in self._journals():
            with reading(path, broken=[]) as db:
                for flow, count in db.execute(_RECEIVED):
                    received[flow] += count
                for flow, state, count, again in db.execute(_STATES):
                    states.setdefault(flow, Counter())[State(state)] += count
                    duplicates[flow] += again
                maybe_twice.update(dict(db.execute(_MAYBE_TWICE)))
        return [
            Ledger(flow, received[flow], states.get(flow, {}), duplicates[flow], maybe_twice[flow])
            for flow in sorted(received.keys() | states.keys(), key=str)
        ]

    def losses(self) -> dict[str, Losses]:
        """What repairs could not bring over, of each journal where there was any."""
        found: dict[str, Losses] = {}
        for path in self._journals():
            with reading(path, with_log=False) as db:
                rows = [db.execute(READ_NOTE, (name,)).fetchone() or (0,) for name in LOSSES]
            losses = Losses(*(value for (value,) in rows))
            if losses.places or losses.runs:
                found[path.stem] = losses
        return found

    def _journals(self) -> list[Path]:
        return journals_in(self._folder)


def journals_in(folder: Path) -> list[Path]:
    """The journals of a state folder; none before a node has made it. Raises JournalUnreadable."""
    try:
        files = list(folder.iterdir())  # `glob` finds nothing where it may not look
    except OSError as error:
        if isinstance(error, FileNotFoundError) and not folder.is_symlink():
            return []
        raise JournalUnreadable(
            f"{folder} cannot be read ({error.strerror}); do this as the user of the node, or"
            " correct state.path in comm.conf"
        ) from error
    return sorted(file for file in files if file.suffix == ".journal")


def open_runs_of(path: Path) -> list[str]:
    """The ids of the runs of a journal that have no end, as they came. Raises JournalError."""
    with reading(path) as db:
        rows = db.execute("SELECT id FROM runs WHERE settled_ms IS NULL ORDER BY no").fetchall()
    return [run_id for (run_id,) in rows]


@contextmanager
def reading(
    path: Path, *, with_log: bool = True, broken: list[str] | None = None
) -> Generator[sqlite3.Connection]:
    """A journal as it is at one moment, whatever is written meanwhile.

    ``with_log``: with what its log tells beyond the history. Where that is damaged, it is without
    it, and says so in ``broken`` if that is given.

    Raises JournalUnreadable where this user cannot read it, JournalDamaged for whatever cannot be
    read in it, JournalTooNew where it may mean more than this release knows, JournalTooOld where it
    means something else.
    """
    uri = f"{path.absolute().as_uri()}?mode=ro"
    try:
        check_files(path)
        path.stat()  # of a link that leads nowhere, SQLite says only that it is not opened
        with closing(sqlite3.connect(uri, uri=True, timeout=5)) as db:
            add_row_sum(db)
            db.text_factory = decode_any
            db.execute("BEGIN")
            found = format_of(db, path)
            show_as_now(db, found)
            if found >= SUMMED_SINCE and with_log:
                try:
                    lay_over(db, path)
                except JournalDamaged as error:
                    if broken is None:
                        raise
                    broken.append(str(error))
            yield db
    except UnicodeEncodeError:  # it is in what was asked for
        raise
    except (OSError, sqlite3.Error, ChainBroken, ValueError) as error:  # a state nobody knows
        raise _unread(path, error) from error


def _unread(path: Path, error: Exception) -> JournalDamaged | JournalUnreadable:
    if isinstance(error, PermissionError):
        what = f"{path} cannot be read ({error.strerror})"
        return JournalUnreadable(f"{what}; do this as the user of the node")
    text = str(error) if not isinstance(error, OSError) else str(error.strerror)
    if isinstance(error, sqlite3.Error) and ("unable to open" in text or "readonly" in text):
        return JournalUnreadable(
            f"{path} cannot be read ({text}), as SQLite writes beside what it reads; do this as the"
            " user of the node, or with a copy of the folder and of comm.conf"
        )
    return JournalDamaged(f"{path} cannot be read ({text})")


def summary_of(row: Row, path: Path) -> RunSummary:
    """A whole row as one line of a list. Raises ChainBroken where a value in it cannot be."""
    (_, run_id, flow, state, reason, source, node, accepted_ms, settled_ms, *_) = row
    if not holds(row):
        raise ChainBroken(f"the row of run {run_id} does not match its checksum")
    return RunSummary(
        run_id, flow, State(state), reason, source, node, accepted_ms, settled_ms, path.stem
    )


def _facts(db: sqlite3.Connection, row: Row, path: Path) -> tuple[list[TimedFact], str | None]:
    no, run_id, *_ = row
    count, last = row[12], row[13]
    if not count:  # its pages were dropped for their age, and with them the checksum
        return [], None
    read_blob = partial(read, FolderBlobs(blob_folder(path)))
    facts, broken = what_holds(run_id, db.execute(PAGES, (no,)), count, last, read_blob)
    return [TimedFact(at_ms, fact) for at_ms, fact in facts], broken
