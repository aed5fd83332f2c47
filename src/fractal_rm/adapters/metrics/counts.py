"""Counts written facts, answered triggers, received messages and syncs of the journal.

The functions here run on the main path, so they only append to lists and add to counters. `fold`
sorts the values into histograms later.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from msgspec import UNSET

from fractal_rm.adapters.metrics.histogram import Histogram
from fractal_rm.config.model import Config
from fractal_rm.domain.facts import (
    AnyFact,
    Dead,
    ElementFinished,
    Finished,
    Offered,
    OfferInDoubt,
    Placed,
    Settled,
    StepFailed,
    StepUndone,
    none_if_unset,
)
from fractal_rm.domain.flow import Call, Flow
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival, Trigger
from fractal_rm.engine.ports import AcceptedTrigger, TriggerAnswer

MAX_NAMES = 200  # of flows, and of components; all others are counted as OTHER
OTHER = "other"
FOLD_AT = 4_096  # so many facts are counted between two calls of `fold`, at most


class CallCounts:
    """The calls to one component."""

    __slots__ = ("durations", "failures", "retries")

    def __init__(self) -> None:
        self.durations = Histogram()
        self.failures: Counter[str] = Counter()
        self.retries = 0


class FlowCounts:
    """The runs of one flow. ``ended`` has the states that `Counts.fold` has not counted yet."""

    __slots__ = ("durations", "ended", "queue", "states")

    def __init__(self) -> None:
        self.durations = Histogram()
        self.queue = Histogram()
        self.ended: list[State] = []
        self.states: Counter[State] = Counter()


class _Target:
    """Where the facts of a flow are counted: the counts of the flow, and of each step's calls."""

    __slots__ = (
        "add_call", "add_duration", "add_ended", "add_placed", "add_queued", "calls", "flow"
    )  # fmt: skip

    def __init__(
        self, flow: Flow, counts: FlowCounts, calls: Mapping[int, CallCounts], placed: list[Placed]
    ) -> None:
        self.flow = flow
        self.calls = calls
        self.add_call = {number: each.durations.added.append for number, each in calls.items()}
        self.add_queued = counts.queue.added.append
        self.add_duration = counts.durations.added.append
        self.add_ended = counts.ended.append
        self.add_placed = placed.append


_HANDED_OFF = State.HANDED_OFF  # a constant, because the lookup of a member of an Enum is slow
_NO_FLOW = Flow("")
_NO_TARGET = _Target(_NO_FLOW, FlowCounts(), {}, [])


class Counts:
    """All numbers that grow. ``config`` returns the current configuration.

    ``ahead_ms`` returns how far the steady clock is ahead of the wall clock: it makes durations
    right although facts have wall times.
    """

    def __init__(self, config: Callable[[], Config], ahead_ms: Callable[[], int]) -> None:
        self._config = config
        self._ahead_ms = ahead_ms
        self.flows: dict[str, FlowCounts] = {}
        self.components: dict[str, CallCounts] = {}
        self.triggers: Counter[tuple[str, str]] = Counter()
        self.placements: Counter[tuple[str | None, object]] = Counter()
        self.handoffs: Counter[tuple[str, str]] = Counter()
        self.dead_letters: Counter[str] = Counter()
        self.messages = [0, 0, 0, 0]  # by QoS
        self.syncs = Histogram()
        self._placed: list[Placed] = []  # not counted in ``placements`` yet
        self._targets: dict[str, _Target] = {}
        self._unfolded = 0

    # --- the main path ----------------------------------------------------------------------------

    def count_facts(self, facts: Sequence[tuple[Run, tuple[int, Any]]]) -> None:
        """Count the facts of one turn of the event loop; see `Counting.facts`."""
        ahead_ms = self._ahead_ms()
        flow = _NO_FLOW
        target = _NO_TARGET
        for run, (at_ms, fact) in facts:
            if run.flow is not flow:  # most facts in a row are of the same flow
                flow = run.flow
                known = self._targets.get(flow.id)
                target = known if known and known.flow is flow else self._target(flow)
            kind = type(fact)  # pyright: ignore[reportUnknownVariableType]
            if kind is Finished:
                # A step that made no call of its own, such as a skipped one or a RUN, took no time.
                took_ms = fact.took_ms
                if took_ms:
                    target.add_call[fact.step](took_ms)
            elif kind is Placed:
                target.add_placed(fact)
                target.add_queued(at_ms + ahead_ms - run.accepted_ms - (run.accepted.ahead_ms or 0))
                if run.offered is not None:
                    self._count_refused_offer(run, fact)
            elif kind is Settled:
                state = fact.state
                target.add_ended(state)
                if state is _HANDED_OFF:
                    self.handoffs[run.node or "", _text(fact.cause)] += 1
                else:
                    target.add_duration(
                        at_ms + ahead_ms - run.accepted_ms - (run.accepted.ahead_ms or 0)
                    )
            else:
                self._count_rare(run, fact, target)
        self._unfolded += len(facts)
        if self._unfolded >= FOLD_AT:
            self.fold()

    def count_answers(
        self,
        arrivals: Sequence[Arrival],
        triggers: Sequence[Trigger | TriggerAnswer],
        answers: Sequence[TriggerAnswer],
    ) -> None:
        """Count triggers that arrived together; see `Counting.answers`."""
        counts = self.triggers
        for arrival, trigger, answer in zip(arrivals, triggers, answers, strict=True):
            if isinstance(answer, AcceptedTrigger):
                outcome = "duplicate" if answer.duplicate else "accepted"
                is_offer = answer.epoch is not None
            else:
                outcome = answer.code
                is_offer = isinstance(trigger, Trigger) and trigger.offer is not None
            counts["peer" if is_offer else arrival.source.text, outcome] += 1

    def count_message(self, qos: int) -> None:
        """Count a received MQTT message."""
        self.messages[qos] += 1

    def count_sync(self, took_s: float) -> None:
        """Count a sync of the log."""
        self.syncs.added.append(took_s * 1000)

    def count_dead_letter(self, fact: Dead) -> None:
        """Count a message or a run that was set aside."""
        self.dead_letters[fact.cause.text] += 1

    # --- seldom -----------------------------------------------------------------------------------

    def fold(self) -> None:
        """Sort all added values into the histograms and counters."""
        self._unfolded = 0
        self.placements.update([(fact.node, fact.cause) for fact in self._placed])
        self._placed.clear()
        for flow in self.flows.values():
            flow.durations.fold()
            flow.queue.fold()
            if flow.ended:
                flow.states.update(flow.ended)
                flow.ended.clear()
        for component in self.components.values():
            component.durations.fold()
        self.syncs.fold()

    def flow_label(self, flow_id: str) -> str:
        """The label of a flow: its id if it is configured, unless there are too many flows."""
        return _label(flow_id, self.flows, self._config().flows)

    def _target(self, flow: Flow) -> _Target:
        """Where the facts of a flow are counted. A flow with another definition needs a new one."""
        counts = self.flows.setdefault(self.flow_label(flow.id), FlowCounts())
        calls: dict[int, CallCounts] = {}
        for step in flow.steps:
            if isinstance(step, Call):
                label = _label(step.component, self.components, self._config().components)
                calls[step.number] = self.components.setdefault(label, CallCounts())
        target = self._targets[flow.id] = _Target(flow, counts, calls, self._placed)
        if len(self._targets) > 2 * MAX_NAMES:
            self._targets.clear()  # they are made again
        return target

    def _count_refused_offer(self, run: Run, fact: Placed) -> None:
        """Count the end of an offer after which this node executes the run."""
        if run.offered is not None and fact.node in (None, none_if_unset(run.accepted.node)):
            self.handoffs[run.offered.node, _text(fact.cause)] += 1

    def _count_rare(self, run: Run, fact: AnyFact, target: _Target) -> None:
        if isinstance(fact, StepFailed):
            calls = target.calls.get(fact.step)
            if calls is not None and fact.attempt:
                calls.failures[_text(fact.cause)] += 1
                calls.retries += fact.retry_at is not UNSET
        elif isinstance(fact, (ElementFinished, StepUndone)):
            calls = target.calls.get(fact.step)
            if calls is not None and fact.took_ms:
                calls.durations.added.append(fact.took_ms)
        elif isinstance(fact, Offered):
            self.handoffs[fact.node, "offered"] += 1
        elif isinstance(fact, OfferInDoubt):
            self.handoffs[run.node or "", "in-doubt"] += 1
        elif isinstance(fact, Dead):
            target.add_ended(State.DEAD)


def _label(name: str, known: Mapping[str, object], configured: Mapping[str, object]) -> str:
    if name in known:
        return name
    return name if name in configured and len(known) < MAX_NAMES else OTHER


def _text(cause: object) -> str:
    return getattr(cause, "text", OTHER)
