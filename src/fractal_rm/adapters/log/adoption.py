"""Adoption: the open runs of a journal that no process holds are moved to this one's.

    noted there ──> written and synced here ──> taken out there ──> they go on here

Until a run is taken out there, its copy here counts for nothing. A process that ends in between
leaves the note, and the next start drops its copies (`drop_copies`).
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from itertools import chain

from fractal_rm.adapters.log.history import Asked, History
from fractal_rm.adapters.log.others import OtherJournal, OtherJournals
from fractal_rm.adapters.log.replay import told_in
from fractal_rm.adapters.log.segments import Put
from fractal_rm.adapters.log.stories import Recent, Stories
from fractal_rm.adapters.log.threads import Worker
from fractal_rm.domain.journal_errors import JournalBlocked, JournalError, JournalInUse
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Adopted, Recovered

RUNS_AT_ONCE = 500
NEED_MORE = "some need what this process does not serve"
BROKEN = "some are broken, which the process that they came to sets aside at its start"


class Adoption:
    """Moves runs, journal by journal.

    ``take_in`` writes new runs into this journal, ``wait_durable`` waits until all is on the disk.
    ``looking`` is the thread that asks this journal's history, ``working`` the one for the others.
    """

    def __init__(
        self,
        others: OtherJournals,
        history: History,
        recent: Recent,
        looking: Worker,
        working: Worker,
        take_in: Callable[[bytes, Stories], None],
        wait_durable: Callable[[], Awaitable[None]],
    ) -> None:
        self._others = others
        self._history = history
        self._recent = recent
        self._looking = looking
        self._working = working
        self._take_in = take_in
        self._wait_durable = wait_durable
        self._copied: set[str] = set()  # here, and not known to be taken out there

    def drop_copies(self) -> None:
        """At a start: what a move that was cut short has written here is in the other journal."""
        if not self._others.moves_began():
            return
        run_ids = self._history.open_ids()
        found = self._others.find([_by_id(run_id) for run_id in run_ids])
        copies = [run_id for run_id, prior in zip(run_ids, found, strict=True) if prior]
        self._history.take_out(copies)
        self._others.forget_moves()

    async def adopt(self) -> list[Adopted]:
        """Move what can be moved; see the port."""
        found = [await self._adopt(other) for other in await self._working.run(self._others.left)]
        return [adopted for adopted in found if adopted is not None]

    async def _adopt(self, other: OtherJournal) -> Adopted | None:
        """One journal; None: a process holds it, or no run is open in it."""
        work = self._working.run
        adopting = _Adopting(other.name)
        seen = False
        try:
            found: Recovered | None = await work(other.open)
            if found is not None:
                adopting.sort(found, self._others.carries)
                await self._move_all(other, adopting)
            seen = True
        except JournalInUse:
            return None
        except JournalBlocked as error:
            adopting.why.append(str(error))
        except JournalError as error:
            adopting.why.append(str(error))
            seen = True
        finally:
            await work(partial(other.close, seen=seen))
        return adopting.result()

    async def _move_all(self, other: OtherJournal, adopting: _Adopting) -> None:
        if not adopting.takes:
            return
        await self._working.run(other.begin_move)
        while adopting.takes:
            adopting.moved += await self._move(other, adopting.takes[0])
            del adopting.takes[0]
        await self._working.run(other.end_move)

    async def _move(self, other: OtherJournal, runs: Sequence[Run]) -> list[Run]:
        """Returns those that go on here: a run that this journal had already is its own."""
        work = self._working.run
        run_ids = [run.id for run in runs]
        known = await self._known(run_ids)
        new = [run_id for run_id in run_ids if run_id not in known]
        if new:
            body: bytes = await work(partial(other.body_of, new))
            self._take_in(body, await work(partial(told_in, [Put(body, 0)], _never)))
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
    """What is found in one journal: what is taken, by batches, what was, and what stays."""

    def __init__(self, name: str) -> None:
        self.why: list[str] = []
        self.takes: list[list[Run]] = []
        self.moved: list[Run] = []
        self._name = name
        self._stay: list[Run] = []
        self._clean = False

    def sort(self, found: Recovered, carries: Callable[[Run], bool]) -> None:
        """Decide for each run. A batch has whole families."""
        self._clean = found.clean
        taken: list[Run] = []
        for family in families(found.runs):
            if not all(map(carries, family)):
                self._stay += family
                continue
            taken += family
            if len(taken) >= RUNS_AT_ONCE:
                self.takes.append(taken)
                taken = []
        if taken:
            self.takes.append(taken)
        if self._stay:
            self.why.append(NEED_MORE)
        if found.broken:
            self._stay += [each.run for each in found.broken]
            self.why.append(BROKEN)

    def result(self) -> Adopted | None:
        """None: there was nothing to do."""
        stay = [run.id for run in chain(*self.takes, self._stay)]
        if not self.moved and not self.why:
            return None
        moved = Recovered(self.moved, clean=self._clean)
        return Adopted(self._name, moved, stay, "; ".join(self.why))


def families(runs: Sequence[Run]) -> Iterable[list[Run]]:
    """Each run with those that it has begun, oldest first."""
    roots: dict[str, str] = {}
    by_root: dict[str, list[Run]] = {}
    for run in runs:  # a parent stands before its children
        parent = run.origin.rpartition(":")[0] if run.origin is not None else ""
        root = roots[run.id] = roots.get(parent, run.id)
        by_root.setdefault(root, []).append(run)
    return by_root.values()


def _never(_: str) -> None:
    """The history has none of the runs that are new."""


def _by_id(run_id: str) -> Asked:
    return None, run_id, "", 0
