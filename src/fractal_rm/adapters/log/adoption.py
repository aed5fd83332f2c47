"""Adoption: the open runs of a journal that no process has open are moved into this journal.

    record there that a move begins ──> write and sync here ──> delete there ──> resume here

Until a run is deleted there, its copy here does not count. If the process ends in between, the
record of the move remains, and the next start deletes the copies (`drop_copies`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import chain

from fractal_rm.adapters.log.history import History, KeyQuery
from fractal_rm.adapters.log.others import OtherJournal, OtherJournals
from fractal_rm.adapters.log.replay import updates_in
from fractal_rm.adapters.log.run_updates import Recent, RunUpdates
from fractal_rm.adapters.log.segments import PlacedBody
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.domain.journal_errors import JournalBlocked, JournalError, JournalInUse
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Adopted, Recovered

RUNS_AT_ONCE = 500
NEED_MORE = "some need what this process does not serve"
BROKEN = "some are broken; the process that accepted them sets them aside at its start"


class Adoption:
    """Moves runs, one journal after the other.

    ``add_moved_runs`` writes new runs into this journal, ``wait_durable`` waits until they are
    durable. ``looking`` is the thread that queries this journal's history, ``working`` the thread
    for the other journals.
    """

    def __init__(
        self,
        others: OtherJournals,
        history: History,
        recent: Recent,
        looking: Worker,
        working: Worker,
        add_moved_runs: Callable[[bytes, RunUpdates], None],
        wait_durable: Callable[[], Awaitable[None]],
    ) -> None:
        self._others = others
        self._history = history
        self._recent = recent
        self._looking = looking
        self._working = working
        self._add_moved_runs = add_moved_runs
        self._wait_durable = wait_durable
        self._copied: set[str] = set()  # here, and not yet known to be deleted there

    def drop_copies(self) -> None:
        """At a start: delete the copies of an unfinished move; the other journal has these runs."""
        if not self._others.has_unfinished_moves():
            return
        run_ids = self._history.open_ids()
        found = self._others.find([_by_id(run_id) for run_id in run_ids])
        copies = [run_id for run_id, prior in zip(run_ids, found, strict=True) if prior]
        self._history.delete_open(copies)
        self._others.clear_moves()

    async def adopt(self) -> list[Adopted]:
        """Move the runs that can be moved; see the port."""
        free = await self._working.run(self._others.free_journals)
        found = [await self._adopt(other) for other in free]
        return [adopted for adopted in found if adopted is not None]

    async def _adopt(self, other: OtherJournal) -> Adopted | None:
        """One journal; None: a process has it open, or it has no open run."""
        work = self._working.run
        adopting = _Adopting(other.name)
        done = False
        try:
            found: Recovered | None = await work(other.open)
            if found is not None:
                adopting.sort(found, self._others.can_execute)
                await self._move_all(other, adopting)
            done = True
        except JournalInUse:
            return None
        except JournalBlocked as error:
            adopting.why.append(str(error))
        except JournalError as error:
            adopting.why.append(str(error))
            done = True
        finally:
            await work(partial(other.close, done=done))
        return adopting.result()

    async def _move_all(self, other: OtherJournal, adopting: _Adopting) -> None:
        if not adopting.batches:
            return
        await self._working.run(other.begin_move)
        while adopting.batches:
            adopting.moved += await self._move(other, adopting.batches[0])
            del adopting.batches[0]
        await self._working.run(other.end_move)

    async def _move(self, other: OtherJournal, runs: Sequence[Run]) -> list[Run]:
        """Returns the runs to resume here: not those that this journal already had as its own."""
        work = self._working.run
        run_ids = [run.id for run in runs]
        known = await self._known(run_ids)
        new = [run_id for run_id in run_ids if run_id not in known]
        if new:
            body: bytes = await work(partial(other.body_of, new))
            self._add_moved_runs(
                body, await work(partial(updates_in, [PlacedBody(body, 0)], _no_run))
            )
            self._copied.update(new)
            await self._wait_durable()
        await work(partial(other.take_out, run_ids))
        moved = [run for run in runs if run.id in self._copied]
        self._copied.difference_update(run_ids)
        return moved

    async def _known(self, run_ids: Sequence[str]) -> set[str]:
        asked = [_by_id(run_id) for run_id in run_ids]
        found = await self._looking.run(partial(self._history.find, asked))
        known = {run_id for run_id, prior in zip(run_ids, found, strict=True) if prior}
        return known | {run_id for run_id in run_ids if self._recent.has(run_id)}


class _Adopting:
    """The runs of one journal: to be moved, in batches; moved; and remaining there."""

    def __init__(self, name: str) -> None:
        self.why: list[str] = []
        self.batches: list[list[Run]] = []
        self.moved: list[Run] = []
        self._name = name
        self._remaining: list[Run] = []
        self._clean = False

    def sort(self, found: Recovered, carries: Callable[[Run], bool]) -> None:
        """Decide for each run whether it is moved. A batch never splits a family."""
        self._clean = found.clean
        batch: list[Run] = []
        for family in families(found.runs):
            if not all(map(carries, family)):
                self._remaining += family
                continue
            batch += family
            if len(batch) >= RUNS_AT_ONCE:
                self.batches.append(batch)
                batch = []
        if batch:
            self.batches.append(batch)
        if self._remaining:
            self.why.append(NEED_MORE)
        if found.broken:
            self._remaining += [each.run for each in found.broken]
            self.why.append(BROKEN)

    def result(self) -> Adopted | None:
        """None: nothing was moved, and nothing is wrong."""
        remaining = [run.id for run in chain(*self.batches, self._remaining)]
        if not self.moved and not self.why:
            return None
        moved = Recovered(self.moved, clean=self._clean)
        return Adopted(self._name, moved, remaining, "; ".join(self.why))


def families(runs: Sequence[Run]) -> Iterable[list[Run]]:
    """Each run together with the runs that it began, oldest first."""
    roots: dict[str, str] = {}
    by_root: dict[str, list[Run]] = {}
    for run in runs:  # a parent comes before its children
        parent = run.origin.rpartition(":")[0] if run.origin is not None else ""
        root = roots[run.id] = roots.get(parent, run.id)
        by_root.setdefault(root, []).append(run)
    return by_root.values()


def _no_run(_: str) -> None:
    """The history has none of these runs."""


def _by_id(run_id: str) -> KeyQuery:
    return None, run_id, "", 0
