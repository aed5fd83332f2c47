"""Permits of flows that have a LIMIT: who holds one, and who waits for one.

A run of its own takes its permit when it leaves the line (`engine.queue.slots`). A run that a RUN
step begins takes one here, before it exists, and needs no slot. Until there is one, its parent
leaves its own slot and waits, within its own time.

    request ──free──> holds a permit ──> the child begins
       │                  ▲
       ├──taken──> waits ─┘ a run of the flow has ended
       └──> Deadlock: all holders wait for the end of this run

A run that runs its own flow again, at any depth, needs no second permit. Two runs that wait for the
end of each other are found when the second one requests its permit, and its step fails. No order of
requests could prevent that, as the data of a flow decide what it runs.

The LIMIT in force counts, also for runs that were accepted under another one, and for runs that had
begun before a restart or in another process: they continue when others free their permits.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping

import msgspec
from msgspec import UNSET

from fractal_rm.domain.admission import FAIR_TURN, is_within_limit
from fractal_rm.domain.flow import Flow, SubFlow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.open_runs import OpenRuns, origin_of, parent_id
from fractal_rm.engine.queue.deadlock import Deadlock, PermitHolders


class _Queue(msgspec.Struct):
    """Steps that wait for a permit of one flow, by origin, in the order of their requests.

    With each step are the runs above it that hold permits, the outermost last. ``granted`` counts
    the permits that were given, to the line too, since somebody waits.
    """

    steps: OrderedDict[str, tuple[Run, ...]] = msgspec.field(default_factory=OrderedDict)
    granted: int = 0


class Permits:
    """Runs that hold permits, by flow: ``in_flight``, or ``deferred`` (begun, without a slot).

    ``flows`` are those in force; when they change, call `grant` for all flows in `waited_for`.
    RUN steps are named by their origin, see `engine.open_runs.origin_of`. ``on_grant`` has, by run,
    what is called when a step of the run, or of a run within it, is given a permit.
    """

    def __init__(self, runs: OpenRuns, flows: Mapping[str, Flow]) -> None:
        self.flows = flows
        self._runs = runs
        self.in_flight: Counter[str] = Counter()
        self.deferred: Counter[str] = Counter()
        self._children: Counter[str] = Counter()
        self._held: dict[str, str] = {}  # by the origin of a child, the flow of its permit
        self._queues: dict[str, _Queue] = {}  # by flow; none of them is empty
        self._holders = PermitHolders()
        self.on_grant: dict[str, Callable[[], None]] = {}
        self._resuming: dict[str, tuple[Run, Callable[[], None]]] = {}  # and what resumes it

    def taken(self, flow: str) -> int:
        """How many permits of a flow are held."""
        return self.in_flight[flow] + self.deferred[flow] + self._children[flow]

    def may_begin_another(self, flow: Flow) -> bool:
        """Whether a run in line may take a permit. Steps that wait go first, as a rule.

        For a flow that is no longer in force, its own LIMIT counts.
        """
        queueing = self.flows.get(flow.id, flow).queueing
        if queueing is UNSET:
            return True
        if flow.id in self._queues and not self.line_is_next(flow.id):
            return False
        return is_within_limit(queueing.limit, self.taken(flow.id))

    def line_is_next(self, flow: str) -> bool:
        """Whether the next permit is for the line: one in `FAIR_TURN` is, so it never starves."""
        queue = self._queues.get(flow)
        return queue is not None and queue.granted % FAIR_TURN == FAIR_TURN - 1

    def take(self, run: Run) -> None:
        """A run leaves the line: it takes a permit, unless it holds one."""
        flow = run.flow.id
        self.in_flight[flow] += 1
        if run.placement is HERE:
            self.deferred[flow] -= 1
        if flow in self._queues:
            self._queues[flow].granted += 1

    def free(self, run: Run, *, ended: bool) -> None:
        """A run leaves its slot: it keeps its permit until it has ended."""
        flow = run.flow.id
        left = self.in_flight[flow] - 1
        if left:
            self.in_flight[flow] = left
        else:
            del self.in_flight[flow]
        if not ended and run.placement is HERE:
            self.deferred[flow] += 1

    # --- children -------------------------------------------------------------------------------

    def request(self, parent: Run, number: int, flow: str) -> bool:
        """Take a permit for the child of a step. False: it waits; request again after `grant`.

        Raises Deadlock.
        """
        origin = origin_of(parent, number)
        if self._has_permit(origin, parent, flow):
            return True
        if self._is_free(origin, flow):
            self._dequeue(flow, origin)
            self._hold(origin, flow)
            return True
        self._wait(origin, parent, flow)
        if self._holders.is_deadlocked(flow, self._queues, self._is_full):
            self._dequeue(flow, origin)
            raise Deadlock(
                f"LIMIT {self._limit(flow)} of flow {flow} is taken by runs that wait for this one"
                " to end"
            )
        return False

    def is_available_for(self, parent: Run, number: int, flow: str) -> bool:
        """Whether the child of a step holds a permit, or would get one now."""
        origin = origin_of(parent, number)
        return self._has_permit(origin, parent, flow) or self._is_free(origin, flow)

    def retake_for_children(self, run: Run) -> None:
        """Take permits for the runs within one that the journal held: they held them before."""
        for child in self._within(run):
            if child.origin is not None:
                self._hold(child.origin, child.flow.id)

    def grant(self, flow: str) -> Iterator[Run]:
        """Give free permits to steps that wait, in order. Yields the outermost run of each."""
        while (queue := self._queues.get(flow)) is not None:
            if not is_within_limit(self._limit(flow), self.taken(flow)):
                return
            origin, holders = next(iter(queue.steps.items()))
            queue.granted += 1
            self._hold(origin, flow)
            self._dequeue(flow, origin)
            self._notify(origin)
            yield holders[-1]

    def release_all_of(self, run: Run) -> set[str]:
        """A run has ended: free what it and its steps hold. Returns the flows with free permits."""
        freed = {run.flow.id}
        for step in run.flow.steps:
            if isinstance(step, SubFlow) and self.withdraw(run, step.number, step.flow):
                freed.add(step.flow)
        if run.origin is not None:
            self._free(run.origin)
        return freed

    def withdraw(self, parent: Run, number: int, flow: str) -> bool:
        """A step will begin no child. Returns whether it waited for a permit, or held one."""
        origin = origin_of(parent, number)
        return self._dequeue(flow, origin) or self._free(origin)

    def held_up(self, in_line: Counter[str]) -> Counter[str]:
        """How many runs and steps wait for a permit, by the flow whose permits are all held."""
        asking = in_line + Counter({flow: len(each.steps) for flow, each in self._queues.items()})
        for run, _ in self._resuming.values():
            asking.update({*self._held_before(run)})
        full = {flow for flow in asking if not is_within_limit(self._limit(flow), self.taken(flow))}
        return Counter({flow: asking[flow] for flow in full})

    @property
    def waited_for(self) -> set[str]:
        """The flows for whose permits steps wait."""
        return set(self._queues)

    @property
    def in_use(self) -> bool:
        """Whether any step holds a permit, or anything but the line waits for one."""
        return bool(self._held or self._queues or self._resuming)

    def __len__(self) -> int:
        """How many entries are kept of steps and runs; none of those that have ended."""
        kept = (
            self._children,
            self._held,
            self._queues,
            self._holders,
            self.on_grant,
            self._resuming,
        )
        return sum(len(each) for each in kept)

    def __bool__(self) -> bool:
        """Always true: an empty one is one, too."""
        return True

    # --- runs that held permits before ----------------------------------------------------------

    def resume_when_available(self, run: Run, resume: Callable[[], None]) -> None:
        """Resume a run that was parked, or of another process, when its permits are free.

        ``resume`` takes the permits, as at a start.
        """
        if self._can_resume(run):
            resume()
        else:
            self._resuming[run.id] = run, resume

    def resume_waiting(self) -> None:
        """Resume the runs whose permits are free."""
        for run, resume in [*self._resuming.values()]:
            if self._can_resume(run):
                del self._resuming[run.id]
                resume()

    @property
    def waiting_to_resume(self) -> set[str]:
        """The ids of the runs that wait for the permits that they held."""
        return set(self._resuming)

    def _can_resume(self, run: Run) -> bool:
        had = self._held_before(run)
        return not had or all(self._has_free(flow, permits) for flow, permits in had.items())

    def _held_before(self, run: Run) -> dict[str, int]:
        """How many permits a run that the journal held had, with the runs within it, by flow."""
        flows = [child.flow.id for child in self._within(run)]
        if run.placement is HERE:
            flows.append(run.flow.id)
        return Counter(flows) if flows else {}  # most of very many had none

    def _has_free(self, flow: str, permits: int) -> bool:
        """Whether so many permits are free; if LIMIT is lower now, whether no other is held."""
        others = self.taken(flow)
        return not others or is_within_limit(self._limit(flow), others + permits - 1)

    # --- who waits for whom -----------------------------------------------------------------------

    def _is_full(self, flow: str, cannot_end: int) -> bool:
        """Whether all permits of a flow are held, by runs that cannot end."""
        limit = self._limit(flow)
        return limit is not None and cannot_end >= self.taken(flow) >= limit

    def _has_permit(self, origin: str, parent: Run, flow: str) -> bool:
        return origin in self._held or self._is_within(parent, flow)

    def _is_free(self, origin: str, flow: str) -> bool:
        queue = self._queues.get(flow)
        is_first = queue is None or next(iter(queue.steps)) == origin
        return is_first and is_within_limit(self._limit(flow), self.taken(flow))

    def _limit(self, name: str) -> int | None:
        flow = self.flows.get(name)
        return None if flow is None or flow.queueing is UNSET else flow.queueing.limit

    def _chain(self, run: Run) -> Iterator[Run]:
        """A run and the runs above it, up to the outermost."""
        above: Run | None = run
        while above is not None:
            yield above
            above = self._runs.parent(above)

    def _is_within(self, parent: Run, flow: str) -> bool:
        """Whether a run of the flow is above the child: one permit is for both."""
        return any(run.flow.id == flow for run in self._chain(parent))

    def _within(self, run: Run) -> Iterator[Run]:
        """The runs within one that hold permits of their own."""
        for child in self._runs.children(run):
            if not self._is_within(run, child.flow.id):
                yield child
            yield from self._within(child)

    def _notify(self, origin: str) -> None:
        parent = self._runs.get(parent_id(origin))
        if parent is None or not self.on_grant:
            return
        for run in self._chain(parent):
            if run.id in self.on_grant:
                self.on_grant[run.id]()

    def _hold(self, origin: str, flow: str) -> None:
        self._held[origin] = flow
        self._children[flow] += 1

    def _free(self, origin: str) -> bool:
        flow = self._held.pop(origin, None)
        if flow is None:
            return False
        self._children[flow] -= 1
        if not self._children[flow]:
            del self._children[flow]
        return True

    def _wait(self, origin: str, parent: Run, flow: str) -> None:
        """Wait behind the others; a step that waits already keeps its position."""
        queue = self._queues.setdefault(flow, _Queue())
        if origin in queue.steps:
            return
        holders = tuple(
            run for run in self._chain(parent) if run.origin is None or run.origin in self._held
        )
        queue.steps[origin] = holders
        self._holders.begin_wait(holders, flow)

    def _dequeue(self, flow: str, origin: str) -> bool:
        queue = self._queues.get(flow)
        holders = None if queue is None else queue.steps.pop(origin, None)
        if queue is None or holders is None:
            return False
        self._holders.end_wait(holders, flow)
        if not queue.steps:
            del self._queues[flow]
        return True
