"""How many runs of each flow have begun and not ended, and who waits to begin one by RUN (LIMIT).

A run of its own takes its place when it leaves the line (`engine.queue`). One that another
flow begins by RUN takes its place here, before it exists, and takes no slot: until then its parent
leaves its own slot and waits, within its own time.

    ask ──free──> has a place ──> the child begins
      │                ▲
      ├──taken──> waits┘ a run of the flow has ended
      └──> Deadlock: all that have a place wait for the end of this run

A run that runs its own flow again, at any depth, needs no second place. Two runs that wait for the
end of each other are found when the second one asks, and its step fails. No order of asking could
make that impossible, as a flow's data decide what it runs.

The LIMIT in force counts, also for runs that were accepted under another, and for those that had
begun before a restart or in another process: they go on when others leave them their places.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping

import msgspec
from msgspec import UNSET

from fractal_rm.domain.admission import FAIR_TURN, within_limit
from fractal_rm.domain.flow import Flow, SubFlow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.open_runs import OpenRuns, origin_of, parent_id
from fractal_rm.engine.queue.deadlock import Carriers, Deadlock


class _Queue(msgspec.Struct):
    """Steps that wait for a place of one flow, by origin, in the order in which they asked.

    Of each the runs that have a place and carry it, the one of its own last. ``granted`` counts
    places, to the line too, since somebody waits.
    """

    steps: OrderedDict[str, tuple[Run, ...]] = msgspec.field(default_factory=OrderedDict)
    granted: int = 0


class Permits:
    """Runs in flight and ``away`` (they have begun, and wait for another turn), by flow.

    ``flows`` are those in force: where they change, `grant` for all that are `waited_for`. Steps
    that RUN a flow are named by their origin, see `engine.open_runs.origin_of`. ``tell`` has, by
    run, what is called when a step that the run carries has been given a place.
    """

    def __init__(self, runs: OpenRuns, flows: Mapping[str, Flow]) -> None:
        self.flows = flows
        self._runs = runs
        self.in_flight: Counter[str] = Counter()
        self.away: Counter[str] = Counter()
        self._children: Counter[str] = Counter()
        self._held: dict[str, str] = {}  # by the origin of a child, the flow of its place
        self._queues: dict[str, _Queue] = {}  # by flow; none of them is empty
        self._carriers = Carriers()
        self.tell: dict[str, Callable[[], None]] = {}
        self._again: dict[str, tuple[Run, Callable[[], None]]] = {}  # and what lets it go on

    def taken(self, flow: str) -> int:
        """How many runs of a flow count for its LIMIT."""
        return self.in_flight[flow] + self.away[flow] + self._children[flow]

    def line_may_begin(self, flow: Flow) -> bool:
        """Whether a run in line may take a place. Steps that wait go first, as a rule.

        Of a flow that is no longer in force its own LIMIT counts.
        """
        queueing = self.flows.get(flow.id, flow).queueing
        if queueing is UNSET:
            return True
        if flow.id in self._queues and not self.line_is_next(flow.id):
            return False
        return within_limit(queueing.limit, self.taken(flow.id))

    def line_is_next(self, flow: str) -> bool:
        """One place in `FAIR_TURN` is for the line, so that it does not wait for ever."""
        queue = self._queues.get(flow)
        return queue is not None and queue.granted % FAIR_TURN == FAIR_TURN - 1

    def begins(self, run: Run) -> None:
        """A run of its own leaves the line."""
        flow = run.flow.id
        self.in_flight[flow] += 1
        if run.placement is HERE:
            self.away[flow] -= 1
        if flow in self._queues:
            self._queues[flow].granted += 1

    def pauses(self, run: Run, *, ended: bool) -> None:
        """A run of its own leaves its slot, for another turn or for good."""
        flow = run.flow.id
        left = self.in_flight[flow] - 1
        if left:
            self.in_flight[flow] = left
        else:
            del self.in_flight[flow]
        if not ended and run.placement is HERE:
            self.away[flow] += 1

    # --- children -------------------------------------------------------------------------------

    def ask(self, parent: Run, number: int, flow: str) -> bool:
        """Whether the child of a step may begin now. If not, it waits: ask again after `grant`.

        Raises Deadlock.
        """
        origin = origin_of(parent, number)
        if self._has_place(origin, parent, flow):
            return True
        if self._is_free(origin, flow):
            self._leave_queue(flow, origin)
            self._hold(origin, flow)
            return True
        self._wait(origin, parent, flow)
        if self._carriers.are_stuck(flow, self._queues, self._is_full):
            self._leave_queue(flow, origin)
            raise Deadlock(
                f"LIMIT {self._limit(flow)} of flow {flow} is taken by runs that wait for this one"
                " to end"
            )
        return False

    def has_one_for(self, parent: Run, number: int, flow: str) -> bool:
        """Whether the child of a step has a place, or would be given one now."""
        origin = origin_of(parent, number)
        return self._has_place(origin, parent, flow) or self._is_free(origin, flow)

    def readmit_within(self, run: Run) -> None:
        """The runs within one that the journal held have their places still."""
        for child in self._within(run):
            if child.origin is not None:
                self._hold(child.origin, child.flow.id)

    def grant(self, flow: str) -> Iterator[Run]:
        """Give free places to steps that wait, in their order. Yields the runs of their own."""
        while (queue := self._queues.get(flow)) is not None:
            if not within_limit(self._limit(flow), self.taken(flow)):
                return
            origin, carriers = next(iter(queue.steps.items()))
            queue.granted += 1
            self._hold(origin, flow)
            self._leave_queue(flow, origin)
            self._tell(origin)
            yield carriers[-1]

    def leave(self, run: Run) -> set[str]:
        """A run has ended; its steps wait for nothing. Returns the flows that may begin another."""
        freed = {run.flow.id}
        for step in run.flow.steps:
            if isinstance(step, SubFlow) and self.withdraw(run, step.number, step.flow):
                freed.add(step.flow)
        if run.origin is not None:
            self._let_go(run.origin)
        return freed

    def withdraw(self, parent: Run, number: int, flow: str) -> bool:
        """A step has no child and will have none. Returns whether it waited or had a place."""
        origin = origin_of(parent, number)
        return self._leave_queue(flow, origin) or self._let_go(origin)

    def held_up(self, in_line: Counter[str]) -> Counter[str]:
        """How many runs and steps of runs LIMIT holds up, by the flow whose places are taken."""
        asking = in_line + Counter({flow: len(each.steps) for flow, each in self._queues.items()})
        for run, _ in self._again.values():
            asking.update({*self._had(run)})
        full = {flow for flow in asking if not within_limit(self._limit(flow), self.taken(flow))}
        return Counter({flow: asking[flow] for flow in full})

    @property
    def waited_for(self) -> set[str]:
        """The flows for a place of which steps wait."""
        return set(self._queues)

    @property
    def in_use(self) -> bool:
        """Whether any step has a place, or anybody but the line waits for one."""
        return bool(self._held or self._queues or self._again)

    def __len__(self) -> int:
        """How many entries are kept of steps and runs; none of those that have ended."""
        kept = (self._children, self._held, self._queues, self._carriers, self.tell, self._again)
        return sum(len(each) for each in kept)

    def __bool__(self) -> bool:
        """Always true: an empty one is one, too."""
        return True

    # --- runs that had places before ------------------------------------------------------------

    def want_again(self, run: Run, go_on: Callable[[], None]) -> None:
        """A run that was parked, or of another process, goes on when what it had is free.

        ``go_on`` has its places taken, as at a start.
        """
        if self._has_room_again(run):
            go_on()
        else:
            self._again[run.id] = run, go_on

    def give_again(self) -> None:
        """Let those go on whose places are free."""
        for run, go_on in [*self._again.values()]:
            if self._has_room_again(run):
                del self._again[run.id]
                go_on()

    @property
    def wanted_again(self) -> set[str]:
        """The ids of the runs that wait for the places that they had."""
        return set(self._again)

    def _has_room_again(self, run: Run) -> bool:
        had = self._had(run)
        return not had or all(self._has_room(flow, places) for flow, places in had.items())

    def _had(self, run: Run) -> dict[str, int]:
        """How many places a run that the journal held had, with those within it, by flow."""
        flows = [child.flow.id for child in self._within(run)]
        if run.placement is HERE:
            flows.append(run.flow.id)
        return Counter(flows) if flows else {}  # most of very many had none

    def _has_room(self, flow: str, places: int) -> bool:
        """For so many at once; where that is more than LIMIT is now, while nobody else has one."""
        others = self.taken(flow)
        return not others or within_limit(self._limit(flow), others + places - 1)

    # --- who waits for whom -----------------------------------------------------------------------

    def _is_full(self, flow: str, cannot_end: int) -> bool:
        """Whether all places of a flow are taken, by runs that cannot end."""
        limit = self._limit(flow)
        return limit is not None and cannot_end >= self.taken(flow) >= limit

    def _has_place(self, origin: str, parent: Run, flow: str) -> bool:
        return origin in self._held or self._carries(parent, flow)

    def _is_free(self, origin: str, flow: str) -> bool:
        queue = self._queues.get(flow)
        is_first = queue is None or next(iter(queue.steps)) == origin
        return is_first and within_limit(self._limit(flow), self.taken(flow))

    def _limit(self, name: str) -> int | None:
        flow = self.flows.get(name)
        return None if flow is None or flow.queueing is UNSET else flow.queueing.limit

    def _chain(self, run: Run) -> Iterator[Run]:
        """A run and those that carry it, up to the one of its own."""
        above: Run | None = run
        while above is not None:
            yield above
            above = self._runs.parent(above)

    def _carries(self, parent: Run, flow: str) -> bool:
        """Whether a run of the flow carries what the parent begins: its place is for both."""
        return any(run.flow.id == flow for run in self._chain(parent))

    def _within(self, run: Run) -> Iterator[Run]:
        """The runs within one that have places of their own."""
        for child in self._runs.children(run):
            if not self._carries(run, child.flow.id):
                yield child
            yield from self._within(child)

    def _tell(self, origin: str) -> None:
        parent = self._runs.get(parent_id(origin))
        if parent is None or not self.tell:
            return
        for run in self._chain(parent):
            if run.id in self.tell:
                self.tell[run.id]()

    def _hold(self, origin: str, flow: str) -> None:
        self._held[origin] = flow
        self._children[flow] += 1

    def _let_go(self, origin: str) -> bool:
        flow = self._held.pop(origin, None)
        if flow is None:
            return False
        self._children[flow] -= 1
        if not self._children[flow]:
            del self._children[flow]
        return True

    def _wait(self, origin: str, parent: Run, flow: str) -> None:
        """Stand in the queue: behind the others, or where it stands since it asked first."""
        queue = self._queues.setdefault(flow, _Queue())
        if origin in queue.steps:
            return
        carriers = tuple(
            run for run in self._chain(parent) if run.origin is None or run.origin in self._held
        )
        queue.steps[origin] = carriers
        self._carriers.wait(carriers, flow)

    def _leave_queue(self, flow: str, origin: str) -> bool:
        queue = self._queues.get(flow)
        carriers = None if queue is None else queue.steps.pop(origin, None)
        if queue is None or carriers is None:
            return False
        self._carriers.cease(carriers, flow)
        if not queue.steps:
            del self._queues[flow]
        return True
