"""How many runs of each flow have begun and not ended, and who waits to begin one by RUN (LIMIT).

A run of its own takes its place when it leaves the line (`engine.waiting_room`). One that another
flow begins by RUN takes its place here, before it exists, and takes no slot: until then its parent
leaves its own slot and waits, within its own time.

    ask ──free──> has a place ──> the child begins
      │                ▲
      ├──taken──> waits┘ a run of the flow has ended
      └──> Deadlock: all that have a place wait for the end of this run

A run that runs its own flow again, at any depth, needs no second place. Two runs that wait for the
end of each other are found when the second one asks, and its step fails. No order of asking could
make that impossible, as a flow's data decide what it runs.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import msgspec

from fractal_rm.domain.admission import FAIR_TURN, within_limit
from fractal_rm.domain.errors import CannotEvaluate
from fractal_rm.domain.run import Run
from fractal_rm.engine.open_runs import OpenRuns, origin_of


class Deadlock(CannotEvaluate):
    """A place that would never become free."""

    code = "deadlock"


class _Waiting(msgspec.Struct, frozen=True):
    """A step of ``parent`` waits for one of ``limit`` places of ``flow``."""

    parent: Run
    flow: str
    limit: int


class Places:
    """Runs in flight and ``away`` (they have begun, and wait for another turn), by flow.

    Steps that RUN a flow are named by their origin, see `engine.open_runs.origin_of`.
    """

    def __init__(self, runs: OpenRuns) -> None:
        self._runs = runs
        self.in_flight: Counter[str] = Counter()
        self.away: Counter[str] = Counter()
        self._children: Counter[str] = Counter()
        self._held: dict[str, str] = {}  # by the origin of a child, the flow of its place
        self._waiting: dict[str, dict[str, _Waiting]] = {}  # by flow and origin, in their order
        self._granted: Counter[str] = Counter()  # by flow, since somebody waits
        self._asked: dict[str, set[str]] = {}  # by parent, the origins of steps that asked

    def taken(self, flow: str) -> int:
        """How many runs of a flow count for its LIMIT."""
        return self.in_flight[flow] + self.away[flow] + self._children[flow]

    def line_may_begin(self, flow: str, limit: int | None) -> bool:
        """Whether a run in line may take a place. Steps that wait go first, as a rule."""
        if flow in self._waiting and not self.line_is_next(flow):
            return False
        return within_limit(limit, self.taken(flow))

    def line_is_next(self, flow: str) -> bool:
        """One place in `FAIR_TURN` is for the line, so that it does not wait for ever."""
        return self._granted[flow] % FAIR_TURN == FAIR_TURN - 1

    def begins(self, run: Run) -> None:
        """A run of its own leaves the line."""
        flow = run.flow.id
        self.in_flight[flow] += 1
        if run.stays:
            self.away[flow] -= 1
        if flow in self._waiting:
            self._granted[flow] += 1

    def pauses(self, run: Run, *, ended: bool) -> None:
        """A run of its own leaves its slot, for another turn or for good."""
        flow = run.flow.id
        self.in_flight[flow] -= 1
        if not self.in_flight[flow]:
            del self.in_flight[flow]
        if run.stays and not ended:
            self.away[flow] += 1

    # --- children -------------------------------------------------------------------------------

    def ask(self, parent: Run, number: int, flow: str, limit: int | None) -> bool:
        """Whether the child of a step may begin now. If not, it waits: ask again after `grant`.

        Raises Deadlock.
        """
        origin = origin_of(parent, number)
        if origin in self._held or self._carries(parent, flow):
            return True
        self._asked.setdefault(parent.id, set()).add(origin)
        first = next(iter(self._waiting.get(flow, ())), origin)
        if limit is None or (first == origin and within_limit(limit, self.taken(flow))):
            self._leave_queue(flow, origin)
            self._hold(origin, flow)
            return True
        self._waiting.setdefault(flow, {})[origin] = _Waiting(parent, flow, limit)
        if self._is_stuck(origin):
            self._leave_queue(flow, origin)
            raise Deadlock(
                f"LIMIT {limit} of flow {flow} is taken by runs that wait for this one to end"
            )
        return False

    def readmit(self, child: Run, parent: Run) -> None:
        """A child that the journal held has its place still."""
        if child.origin is not None and not self._carries(parent, child.flow.id):
            self._hold(child.origin, child.flow.id)

    def grant(self, flow: str) -> Iterator[Run]:
        """Give free places to steps that wait, in their order. Yields the runs of their own."""
        while (queue := self._waiting.get(flow)) is not None:
            origin, first = next(iter(queue.items()))
            if not within_limit(first.limit, self.taken(flow)):
                return
            self._granted[flow] += 1
            self._hold(origin, flow)
            self._leave_queue(flow, origin)
            *_, root = self._chain(first.parent)
            yield root

    def leave(self, run: Run) -> set[str]:
        """A run has ended; its steps wait for nothing. Returns the flows that may begin another."""
        origins = self._asked.pop(run.id, set())
        if run.origin is not None:
            origins.add(run.origin)
        freed = {run.flow.id}
        for origin in origins:
            flow = self._held.pop(origin, None)
            if flow is not None:
                self._children[flow] -= 1
                freed.add(flow)
            freed.update(each for each in [*self._waiting] if self._leave_queue(each, origin))
        return freed

    @property
    def in_use(self) -> bool:
        """Whether any step has a place or waits for one."""
        return bool(self._held or self._waiting)

    # --- who waits for whom -----------------------------------------------------------------------

    def _is_stuck(self, asking: str) -> bool:
        """Whether a place can never become free for the step of that origin.

        A step is stuck where every place is taken by a run that carries a stuck step. Begins with
        all that wait, and leaves out who is not stuck, until nothing changes.
        """
        stuck = {origin: each for queue in self._waiting.values() for origin, each in queue.items()}
        while asking in stuck:
            cannot_end = {
                run.id: run.flow.id
                for waiting in stuck.values()
                for run in self._chain(waiting.parent)
                if run.origin is None or run.origin in self._held
            }
            held = Counter(cannot_end.values())
            still = {
                origin: each
                for origin, each in stuck.items()
                if held[each.flow] >= self.taken(each.flow) >= each.limit
            }
            if len(still) == len(stuck):
                return True
            stuck = still
        return False

    def _chain(self, run: Run) -> Iterator[Run]:
        """A run and those that carry it, up to the one of its own."""
        above: Run | None = run
        while above is not None:
            yield above
            above = self._runs.parent(above)

    def _carries(self, parent: Run, flow: str) -> bool:
        """Whether a run of the flow carries what the parent begins: its place is for both."""
        return any(run.flow.id == flow for run in self._chain(parent))

    def _hold(self, origin: str, flow: str) -> None:
        self._held[origin] = flow
        self._children[flow] += 1

    def _leave_queue(self, flow: str, origin: str) -> bool:
        queue = self._waiting.get(flow, {})
        if queue.pop(origin, None) is None:
            return False
        if not queue:
            del self._waiting[flow]
            self._granted.pop(flow, None)
        return True
