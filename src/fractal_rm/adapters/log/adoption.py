"""Adoption: moves open runs into this journal from another journal that no process has open.

    record the move in the other journal ──> write and sync the runs in this journal
    ──> delete them from the other journal ──> resume them in this process

Until a run is deleted from the other journal, its copy in this journal is not valid. If the process
ends before the deletion, the record of the move remains, and the next start deletes the copies
(`Adoption.drop_copies`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import chain

from fractal_rm.adapters.log.history import History, KeyQuery
from fractal_rm.adapters.log.others import OtherJournal, OtherJournals
from fractal_rm.adapters.log.recent_updates import RecentUpdates
from fractal_rm.adapters.log.replay import updates_in
from fractal_rm.adapters.log.run_updates import RunUpdates
from fractal_rm.adapters.log.segments import PlacedBody
from fractal_rm.adapters.log.threads import Threads
from fractal_rm.domain.journal_errors import JournalBlocked, JournalError, JournalInUse
from fractal_rm.domain.run import Run, parent_id_of
from fractal_rm.engine.ports import Adopted, Recovered

RUNS_PER_MOVE = 500
NEED_MORE = "some runs need a feature that this process does not have"
BROKEN = "some runs cannot be read; the process that accepted them sets them aside at its start"


class Adoption:
    """Moves runs into this journal from the other journals, one journal after the other.

    ``add_moved_runs`` writes runs into this journal, and ``wait_durable`` waits until they are
    durable. The syncing thread queries the history of this journal. The projecting thread uses
    the other journals.
    """

    def __init__(
        self,
        others: OtherJournals,
        history: History,
        recent: RecentUpdates,
        threads: Threads,
        add_moved_runs: Callable[[bytes, RunUpdates], None],
        wait_durable: Callable[[], Awaitable[None]],
    ) -> None:
        self._others = others
        self._history = history
        self._recent = recent
        self._history_thread = threads.syncing
        self._others_thread = threads.projecting
        self._add_moved_runs = add_moved_runs
        self._wait_durable = wait_durable
        self._copied: set[str] = set()  # ids of runs that are in both journals

    def drop_copies(self) -> None:
        """At a start, delete the copies of an unfinished move. The other journal has these runs."""
        if not self._others.has_unfinished_moves():
            return
        run_ids = self._history.open_ids()
        other_runs = self._others.find([_by_id(run_id) for run_id in run_ids])
        copies = [run_id for run_id, existing in zip(run_ids, other_runs, strict=True) if existing]
        self._history.delete_open(copies)
        self._others.clear_moves()

    def close(self) -> None:
        """Close the other journals."""
        self._others.close()

    async def adopt(self) -> list[Adopted]:
        """Move all runs that this process can execute; see the port."""
        free = await self._others_thread.run(self._others.free_journals)
        results = [await self._adopt(other) for other in free]
        return [adopted for adopted in results if adopted is not None]

    async def _adopt(self, other: OtherJournal) -> Adopted | None:
        """Adopt one journal. None: there is nothing to report, or a process has it open."""
        run_on_thread = self._others_thread.run
        adopting = _JournalAdoption(other.name)
        done = False
        try:
            recovered: Recovered | None = await run_on_thread(other.open)
            if recovered is not None:
                adopting.sort(recovered, self._others.can_execute)
                await self._move_all(other, adopting)
            done = True
        except JournalInUse:
            return None
        except JournalBlocked as error:
            adopting.problems.append(str(error))
        except JournalError as error:
            adopting.problems.append(str(error))
            done = True
        finally:
            await run_on_thread(partial(other.close, done=done))
        return adopting.result()

    async def _move_all(self, other: OtherJournal, adopting: _JournalAdoption) -> None:
        if not adopting.batches:
            return
        await self._others_thread.run(other.begin_move)
        while adopting.batches:
            adopting.moved += await self._move(other, adopting.batches[0])
            del adopting.batches[0]
        await self._others_thread.run(other.end_move)

    async def _move(self, other: OtherJournal, runs: Sequence[Run]) -> list[Run]:
        """Move a batch. Returns the runs to resume: those that this journal did not have before."""
        run_on_thread = self._others_thread.run
        run_ids = [run.id for run in runs]
        present_ids = await self._present_ids(run_ids)
        new = [run_id for run_id in run_ids if run_id not in present_ids]
        if new:
            body: bytes = await run_on_thread(partial(other.body_of, new))
            updates = await run_on_thread(partial(updates_in, [PlacedBody(body, 0)], _no_run))
            self._add_moved_runs(body, updates)
            self._copied.update(new)
            await self._wait_durable()
        await run_on_thread(partial(other.delete_moved, run_ids))
        moved = [run for run in runs if run.id in self._copied]
        self._copied.difference_update(run_ids)
        return moved

    async def _present_ids(self, run_ids: Sequence[str]) -> set[str]:
        queries = [_by_id(run_id) for run_id in run_ids]
        runs = await self._history_thread.run(partial(self._history.find, queries))
        in_history = {run_id for run_id, existing in zip(run_ids, runs, strict=True) if existing}
        return in_history | {run_id for run_id in run_ids if self._recent.has(run_id)}


class _JournalAdoption:
    """The adoption of one journal: the batches to move, the moved runs, and the remaining runs."""

    def __init__(self, name: str) -> None:
        self.problems: list[str] = []
        self.batches: list[list[Run]] = []
        self.moved: list[Run] = []
        self._name = name
        self._remaining: list[Run] = []
        self._clean = False

    def sort(self, recovered: Recovered, can_execute: Callable[[Run], bool]) -> None:
        """Decide which runs are moved, and divide them into batches. Families stay together."""
        self._clean = recovered.clean
        batch: list[Run] = []
        for family in families(recovered.runs):
            if not all(map(can_execute, family)):
                self._remaining += family
                continue
            batch += family
            if len(batch) >= RUNS_PER_MOVE:
                self.batches.append(batch)
                batch = []
        if batch:
            self.batches.append(batch)
        if self._remaining:
            self.problems.append(NEED_MORE)
        if recovered.broken:
            self._remaining += [each.run for each in recovered.broken]
            self.problems.append(BROKEN)

    def result(self) -> Adopted | None:
        """The result to report; None: no run was moved, and there is no problem."""
        remaining = [run.id for run in chain(*self.batches, self._remaining)]
        if not self.moved and not self.problems:
            return None
        moved = Recovered(self.moved, clean=self._clean)
        return Adopted(self._name, moved, remaining, "; ".join(self.problems))


def families(runs: Sequence[Run]) -> Iterable[list[Run]]:
    """Group runs into families: a run, and the runs that it began directly or indirectly."""
    roots: dict[str, str] = {}
    by_root: dict[str, list[Run]] = {}
    for run in runs:  # a parent comes before its children
        parent_id = parent_id_of(run.accepted) or ""
        root = roots[run.id] = roots.get(parent_id, run.id)
        by_root.setdefault(root, []).append(run)
    return by_root.values()


def _no_run(_: str) -> None:
    """Return None: the history of this journal has none of the moved runs."""


def _by_id(run_id: str) -> KeyQuery:
    return None, run_id, "", 0
