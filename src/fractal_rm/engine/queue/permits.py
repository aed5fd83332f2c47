"""Permits of flows that have a LIMIT: the runs that hold permits, and the steps that wait for them.

A run from a trigger takes its permit when it leaves the line (`engine.queue.slots`). A child run
gets its permit before it is created: its RUN step requests the permit here. While no permit is
free, the parent leaves its slot and waits, until its own deadline.

    request ──free──> holds a permit ──> the child begins
       │                  ▲
       ├──taken──> waits ─┘ a run of the flow has ended
       └──> Deadlock: all holders wait for the end of this run

A run that runs its own flow again, at any depth, needs no second permit. If two runs wait for the
end of each other, the second request raises Deadlock, and its step fails. A fixed order of requests
cannot prevent deadlocks, because the data of a run decide which flows it runs.

The current LIMIT applies to all runs, including those that were accepted under an earlier LIMIT,
before a restart or by another process. Such runs continue when other runs free their permits.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping

import msgspec
from msgspec import UNSET

from fractal_rm.domain.admission import FAIR_TURN, is_within_limit
from fractal_rm.domain.flow import Flow, QueueSettings, SubFlow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.open_runs import OpenRuns, origin_of, parent_id
from fractal_rm.engine.queue.deadlock import Deadlock, PermitHolders
from fractal_rm.engine.queue.rates import FlowRates

_NO_SETTINGS = QueueSettings()


class _PermitQueue(msgspec.Struct):
    """Steps that wait for a permit of one flow, in the order of their requests.

    ``steps`` has, by the origin of each step, the runs above the step that hold permits; the
    outermost run is the last. ``granted`` counts the permits given since the queue was made, to
    steps and to runs in line.
    """

    steps: OrderedDict[str, tuple[Run, ...]] = msgspec.field(default_factory=OrderedDict)
    granted: int = 0


class Permits:
    """Counts the runs that hold permits, and queues the RUN steps that wait for permits.

    ``in_flight`` and ``deferred`` (begun, but without a slot) count the runs by flow. ``flows`` are
    the current flows; when they change, call `grant` for each flow in `awaited_flows`. A RUN step
    is identified by its origin (`engine.open_runs.origin_of`). ``on_grant`` has, by run id, a
    function to call when a step of the run, or of a run below it, gets a permit.
    """

    def __init__(self, runs: OpenRuns, flows: Mapping[str, Flow]) -> None:
        self.flows = flows
        self.rates = FlowRates()
        self._runs = runs
        self.in_flight: Counter[str] = Counter()
        self.deferred: Counter[str] = Counter()
        self._children: Counter[str] = Counter()  # by flow, how many permits child runs hold
        self._child_permits: dict[str, str] = {}  # by origin of a child, the flow of its permit
        self._queues: dict[str, _PermitQueue] = {}  # by flow; no queue is empty
        self._waiting_holders = PermitHolders()
        self.on_grant: dict[str, Callable[[], None]] = {}
        self._resuming: dict[str, tuple[Run, Callable[[], None]]] = {}  # by run id

    def count_held(self, flow: str) -> int:
        """The number of held permits of a flow."""
        return self.in_flight[flow] + self.deferred[flow] + self._children[flow]

    def may_begin(self, run: Run) -> bool:
        """Whether a run in line may take a permit. Waiting steps go first, except in a fair turn.

        The LIMIT in flows.conf applies; without the flow there, the LIMIT that the run began with.
        The rate does not apply to a run that has begun before, such as one that is offered again.
        """
        flow = run.flow
        queueing = self.flows.get(flow.id, flow).queueing
        if queueing is UNSET:
            return True
        if flow.id in self._queues and not self.line_is_next(flow.id):
            return False
        if not is_within_limit(queueing.limit, self.count_held(flow.id)):
            return False
        return run.has_begun or self.rates.may_begin(flow.id, queueing.rate)

    def line_is_next(self, flow: str) -> bool:
        """Whether the next permit is for a run in line, as is every `FAIR_TURN`-th permit."""
        queue = self._queues.get(flow)
        return queue is not None and queue.granted % FAIR_TURN == FAIR_TURN - 1

    def take(self, run: Run) -> None:
        """Take a permit for a run that leaves the line, unless it already holds a permit."""
        flow = run.flow.id
        self.in_flight[flow] += 1
        if run.placement is HERE:
            self.deferred[flow] -= 1
        elif self.rates.buckets and not run.has_begun:
            self.rates.take(flow)
        if flow in self._queues:
            self._queues[flow].granted += 1

    def free(self, run: Run, *, has_ended: bool) -> None:
        """Count a run that leaves its slot. Its permit is freed if the run has ended."""
        flow = run.flow.id
        self.in_flight[flow] -= 1
        if not self.in_flight[flow]:
            del self.in_flight[flow]
        if not has_ended and run.placement is HERE:
            self.deferred[flow] += 1

    # --- children -------------------------------------------------------------------------------

    def request(self, parent: Run, number: int, flow: str) -> bool:
        """Request a permit for the child of a step. Returns whether the child has a permit.

        If not, the step waits: call this method again after `grant`. Raises Deadlock if the permit
        would never become free.
        """
        origin = origin_of(parent, number)
        if self._has_permit(origin, parent, flow):
            return True
        if self._is_free(origin, flow):
            self._dequeue(flow, origin)
            self._give(origin, flow)
            return True
        self._wait(origin, parent, flow)
        if self._waiting_holders.is_deadlocked(flow, self._queues, self._is_full):
            self._dequeue(flow, origin)
            raise Deadlock(
                f"runs that wait for the end of this run hold all permits of flow {flow}"
                f" (LIMIT {self._settings(flow).limit})"
            )
        return False

    def is_available_for(self, parent: Run, number: int, flow: str) -> bool:
        """Whether the child of a step has a permit, or would get one now."""
        origin = origin_of(parent, number)
        return self._has_permit(origin, parent, flow) or self._is_free(origin, flow)

    def retake_for_children(self, run: Run) -> None:
        """Take the permits that the descendants of a recovered run held before."""
        for child in self._descendants_with_permit(run):
            origin = child.accepted.origin
            if origin is not UNSET:
                self._hold(origin, child.flow.id)

    def grant(self, flow: str) -> Iterator[Run]:
        """Give free permits to waiting steps, in order. Yields the outermost run of each step."""
        while (queue := self._queues.get(flow)) is not None:
            if not self._has_room(flow):
                return
            origin, holders = next(iter(queue.steps.items()))
            queue.granted += 1
            self._give(origin, flow)
            self._dequeue(flow, origin)
            self._notify(origin)
            yield holders[-1]

    def release_all_of(self, run: Run) -> set[str]:
        """Free all permits of an ended run and its steps. Returns the flows of these permits."""
        freed = {run.flow.id}
        for step in run.flow.steps:
            if isinstance(step, SubFlow) and self.withdraw(run, step.number, step.flow):
                freed.add(step.flow)
        origin = run.accepted.origin
        if origin is not UNSET:
            self._free(origin)
        return freed

    def withdraw(self, parent: Run, number: int, flow: str) -> bool:
        """Withdraw the request or the permit of a step that begins no child.

        Returns whether there was a request or a permit.
        """
        origin = origin_of(parent, number)
        return self._dequeue(flow, origin) or self._free(origin)

    def waiting_for_permits(self, in_line: Counter[str]) -> Counter[str]:
        """How many runs and steps wait for a permit, by flow. Only full flows are listed."""
        counts = in_line + Counter({flow: len(each.steps) for flow, each in self._queues.items()})
        for run, _ in self._resuming.values():
            counts.update({*self._held_before(run)})
        return Counter({flow: count for flow, count in counts.items() if not self._has_room(flow)})

    @property
    def awaited_flows(self) -> set[str]:
        """The flows that have a step that waits for one of their permits."""
        return set(self._queues)

    @property
    def in_use(self) -> bool:
        """Whether a child run holds a permit, or a step or a recovered run waits for a permit."""
        return bool(self._child_permits or self._queues or self._resuming)

    def __len__(self) -> int:
        """The number of entries in all tables. It must be 0 when all runs have ended."""
        tables = (self._children, self._child_permits, self._queues, self._waiting_holders)
        return sum(map(len, (*tables, self.on_grant, self._resuming)))

    def __bool__(self) -> bool:
        """Always true, although ``len`` may be 0."""
        return True

    # --- recovered runs -------------------------------------------------------------------------

    def resume_when_available(self, run: Run, resume: Callable[[], None]) -> None:
        """Call ``resume`` when the permits that a recovered run held before are free.

        ``resume`` must take these permits.
        """
        if self._can_resume(run):
            resume()
        else:
            self._resuming[run.id] = run, resume

    def withdraw_resuming(self, run: Run) -> bool:
        """Remove a recovered run that waits for permits. Returns whether it waited."""
        return self._resuming.pop(run.id, None) is not None

    def resume_waiting(self) -> None:
        """Resume the recovered runs whose permits are free."""
        for run, resume in [*self._resuming.values()]:
            if self._can_resume(run):
                del self._resuming[run.id]
                resume()

    @property
    def waiting_to_resume(self) -> set[str]:
        """The ids of the recovered runs that wait for permits."""
        return set(self._resuming)

    def _can_resume(self, run: Run) -> bool:
        needed = self._held_before(run)
        return all(self._has_free(flow, count) for flow, count in needed.items())

    def _held_before(self, run: Run) -> dict[str, int]:
        """The permits that a recovered run and its descendants held before, by flow."""
        flows = [child.flow.id for child in self._descendants_with_permit(run)]
        if run.placement is HERE:
            flows.append(run.flow.id)
        return Counter(flows) if flows else {}  # {} is faster to make

    def _has_free(self, flow: str, count: int) -> bool:
        """Whether ``count`` permits are free or, if LIMIT is lower, all permits of the flow."""
        held_count = self.count_held(flow)
        return not held_count or is_within_limit(self._settings(flow).limit, held_count + count - 1)

    # --- checks and tables ------------------------------------------------------------------------

    def _is_full(self, flow: str, count: int) -> bool:
        """Whether ``count`` runs hold all permits of a flow."""
        limit = self._settings(flow).limit
        return limit is not None and count >= self.count_held(flow) >= limit

    def _has_permit(self, origin: str, parent: Run, flow: str) -> bool:
        return origin in self._child_permits or self._is_within_flow(parent, flow)

    def _is_free(self, origin: str, flow: str) -> bool:
        queue = self._queues.get(flow)
        is_first = queue is None or next(iter(queue.steps)) == origin
        return is_first and self._has_room(flow)

    def _has_room(self, name: str) -> bool:
        """Whether the LIMIT of a flow allows another child now: its number and its rate."""
        settings = self._settings(name)
        is_within = is_within_limit(settings.limit, self.count_held(name))
        return is_within and self.rates.may_begin(name, settings.rate)

    def _give(self, origin: str, flow: str) -> None:
        """Give a free permit to a step."""
        self.rates.take(flow)
        self._hold(origin, flow)

    def _settings(self, name: str) -> QueueSettings:
        flow = self.flows.get(name)
        return _NO_SETTINGS if flow is None or flow.queueing is UNSET else flow.queueing

    def _with_ancestors(self, run: Run) -> Iterator[Run]:
        """A run and the runs above it, up to the outermost."""
        current: Run | None = run
        while current is not None:
            yield current
            current = self._runs.parent(current)

    def _is_within_flow(self, parent: Run, flow: str) -> bool:
        """Whether the parent, or a run above it, has this flow. Then a child needs no permit."""
        return any(run.flow.id == flow for run in self._with_ancestors(parent))

    def _descendants_with_permit(self, run: Run) -> Iterator[Run]:
        """The descendants of a run that hold permits of their own."""
        for child in self._runs.children(run):
            if not self._is_within_flow(run, child.flow.id):
                yield child
            yield from self._descendants_with_permit(child)

    def _notify(self, origin: str) -> None:
        parent = self._runs.get(parent_id(origin))
        if parent is None or not self.on_grant:
            return
        for run in self._with_ancestors(parent):
            if run.id in self.on_grant:
                self.on_grant[run.id]()

    def _hold(self, origin: str, flow: str) -> None:
        self._child_permits[origin] = flow
        self._children[flow] += 1

    def _free(self, origin: str) -> bool:
        flow = self._child_permits.pop(origin, None)
        if flow is None:
            return False
        self._children[flow] -= 1
        if not self._children[flow]:
            del self._children[flow]
        return True

    def _wait(self, origin: str, parent: Run, flow: str) -> None:
        """Add a step to the end of the queue. A step that is in the queue keeps its position."""
        queue = self._queues.setdefault(flow, _PermitQueue())
        if origin in queue.steps:
            return
        holders = tuple(
            run
            for run in self._with_ancestors(parent)
            if run.accepted.origin is UNSET or run.accepted.origin in self._child_permits
        )
        queue.steps[origin] = holders
        self._waiting_holders.begin_wait(holders, flow)

    def _dequeue(self, flow: str, origin: str) -> bool:
        queue = self._queues.get(flow)
        holders = None if queue is None else queue.steps.pop(origin, None)
        if queue is None or holders is None:
            return False
        self._waiting_holders.end_wait(holders, flow)
        if not queue.steps:
            del self._queues[flow]
        return True
