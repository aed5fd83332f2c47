"""A run, and how each fact changes it. Nothing else changes a run.

`fold` rebuilds a run from its facts after a crash. `domain.transitions` has the table of the facts
that are possible in each state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.evaluation_context import ResponseHead
from fractal_rm.domain.facts import (
    Accepted,
    Dead,
    ElementFinished,
    Fact,
    Finished,
    Offered,
    Parked,
    Placed,
    Received,
    Released,
    Replying,
    RequestStarted,
    Restarted,
    Settled,
    StepFailed,
    StepPassed,
    StepUndone,
    Stopping,
    WaitStarted,
    request_name,
    undo_request_name,
)
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.result import StepResult, display_json, result_from_fields, size_of
from fractal_rm.domain.state import BY_SENDER, NAMED, Placement, State
from fractal_rm.domain.transitions import NEXT, settling_transition

_NOT_PLACED = (Placement.NOT_YET, BY_SENDER)


# There are thousands of runs, without reference cycles: the garbage collector need not track them.
class Run(msgspec.Struct, gc=False):
    """The state of one run. Only facts change this state.

    ``results`` has the results by number of the step, in the order in which they arrived.
    ``has_bytes``: at least one result is bytes. ``in_doubt`` has the names of the requests that may
    have been sent and have no known outcome. ``failures`` has the last failed attempt of each
    failed request, by name (see `request_name`). ``elements`` has the results of unfinished FOREACH
    steps, by number of the step and of the element. ``last_wait`` is the last WAIT that began.
    ``passed_steps`` has the positions of finished steps without a number. ``flow_reply`` is the
    content of the last REPLY. ``undone_steps`` has the numbers of the steps whose UNDO succeeded.
    ``payload_bytes`` and ``result_bytes`` are the sizes of the payload and of all results.
    ``accepted_ms`` is the wall clock at the acceptance; ``ahead_ms`` is how far the steady clock
    was ahead of the wall clock then.

    ``reason`` (for people) and ``cause`` (for programs) explain the state. ``cause`` is None if an
    older release recorded the fact. ``accepted_by`` is the id that the accepting node had at that
    time. It is None if an older release accepted the run; in facts of such a run, None as a node
    means the accepting node. ``node`` is the other node that the balancer named, or to which the
    run is offered under ``epoch``. None: there is no other node.
    """

    id: str
    flow: Flow
    accepted_ms: int
    payload: msgspec.Raw = msgspec.Raw(b"null")
    payload_bytes: int = 4
    source: str = ""
    state: State = State.NEW
    placement: Placement = Placement.NOT_YET
    reason: str = ""
    cause: Cause | None = None
    results: dict[int, StepResult] = {}
    has_bytes: bool = False
    result_bytes: int = 0
    heads: dict[int, ResponseHead] | None = None
    in_doubt: set[str] | None = None
    failures: dict[str, StepFailed] | None = None
    elements: dict[int, dict[int, StepResult]] | None = None
    passed_steps: set[int] | None = None
    last_wait: WaitStarted | None = None
    flow_reply: StepResult | None = None
    stopping: Stopping | None = None
    undone_steps: set[int] | None = None
    attempts: int = 1
    accepted_by: str | None = None
    node: str | None = None
    epoch: int = 0
    budget_ms: int | None = None
    origin: str | None = None
    reply_topic: str | None = None
    correlation: bytes | None = None
    traceparent: str | None = None
    replying: Replying | None = None
    ahead_ms: int = 0

    @property
    def steady_ms(self) -> int:
        """The time of acceptance on the steady clock, from which the age of a run is counted."""
        return self.accepted_ms + self.ahead_ms

    @property
    def has_begun(self) -> bool:
        """Whether the run certainly has left the queue. Such a run may have caused a crash."""
        placed = self.placement not in _NOT_PLACED
        return placed or self.attempts > 1 or self.replying is not None

    @property
    def position(self) -> int:
        """The number of finished steps: with ORDER listed, the index of the next step."""
        return len(self.results) + (len(self.passed_steps) if self.passed_steps else 0)

    @property
    def failed_step(self) -> int | None:
        """The number of the last step that failed without a further retry, or None."""
        final = [each.step for each in (self.failures or {}).values() if each.final is True]
        return final[-1] if final and final[-1] else None

    @property
    def reply(self) -> StepResult | None:
        """The reply to the sender: the content of the last REPLY, otherwise the last result."""
        if self.flow_reply is not None or not self.results:
            return self.flow_reply
        return self.results[max(self.results)]

    def outcome(self) -> Outcome:
        """The outcome for the sender. Without a REPLY, only a run that succeeded has a reply."""
        results = tuple(display_json(self.results[number]) for number in sorted(self.results))
        reply = self.reply if self.state is State.SUCCEEDED else self.flow_reply
        shown = None if reply is None else display_json(reply)
        return Outcome(self.id, self.state, self.reason, results, shown)

    def apply(self, fact: Fact) -> None:
        """Apply one fact. Raises ImpossibleFact if the transition table does not allow it."""
        kind = type(fact)
        self.state, placement = NEXT[self.state].get(kind) or settling_transition(self.state, fact)
        if placement is not None:
            self.placement = placement
        APPLY_BY_TYPE[kind](self, fact)


def fold(run: Run, facts: Iterable[Fact]) -> Run:
    """Apply facts to a run in their order, and return the run."""
    for fact in facts:
        run.apply(fact)
    return run


def apply_fact(run: Run, fact: Fact) -> None:
    """Apply a fact without checking the state, and without changing state and placement.

    Some facts set the placement themselves: `Accepted`, `Placed` and `Offered`.
    """
    APPLY_BY_TYPE[type(fact)](run, fact)


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended, for senders that wait for it.

    ``results`` are in the order of the flow. ``reply`` is the reply to the sender as JSON, or None
    without a reply. A result or a reply that is bytes is ``{"base64": "…"}``.
    """

    run: str
    state: State
    reason: str = ""
    results: tuple[msgspec.Raw, ...] = ()
    reply: msgspec.Raw | None = None


# --- what each fact changes besides the state -----------------------------------------------------


def _accepted(run: Run, fact: Accepted) -> None:
    run.payload, run.payload_bytes = fact.payload, size_of(fact.payload)
    run.source = fact.source
    if fact.node is not UNSET:
        run.accepted_by = fact.node
    if fact.placed:
        run.placement = BY_SENDER
    if fact.budget_ms is not UNSET:
        run.budget_ms = fact.budget_ms
    if fact.origin is not UNSET:
        run.origin = fact.origin
    if fact.reply_topic is not UNSET:
        run.reply_topic = fact.reply_topic
    if fact.correlation is not UNSET:
        run.correlation = fact.correlation
    if fact.traceparent is not UNSET:
        run.traceparent = fact.traceparent
    if fact.ahead_ms is not UNSET:
        run.ahead_ms = fact.ahead_ms


def _placed(run: Run, fact: Placed) -> None:
    run.node, run.reason = None, fact.reason
    run.cause = None if fact.cause is UNSET else fact.cause
    if fact.node is not None and fact.node != run.accepted_by:
        run.node, run.placement = fact.node, NAMED


def _offered(run: Run, fact: Offered) -> None:
    run.node, run.epoch = fact.node, fact.epoch
    if fact.runs_this_program:
        run.placement = Placement.OFFERED


def _restarted(run: Run, fact: Restarted) -> None:
    run.attempts = fact.attempt


def _request_started(run: Run, fact: RequestStarted) -> None:
    """The request is in doubt until its outcome is known."""
    name = request_name(fact.step, fact.part)
    if run.in_doubt is None:
        run.in_doubt = {name}
    else:
        run.in_doubt.add(name)


def _finished(run: Run, fact: Finished) -> None:
    """Store the result. The step is no longer in doubt; results of its elements are dropped."""
    result = fact.result
    if fact.data is not UNSET:
        result, run.has_bytes = fact.data, True
    run.results[fact.step] = result
    run.result_bytes += size_of(result)
    if fact.headers is not UNSET:
        run.heads = {**(run.heads or {}), fact.step: ResponseHead(fact.status, fact.headers)}
    if run.in_doubt:
        run.in_doubt.discard(str(fact.step))
    if run.elements:
        elements = run.elements.pop(fact.step, {})
        run.result_bytes -= sum(map(size_of, elements.values()))


def _element_finished(run: Run, fact: ElementFinished) -> None:
    """Store the result of an element until the step has its own result."""
    if run.elements is None:
        run.elements = {}
    result = result_from_fields(fact.result, fact.data)
    run.elements.setdefault(fact.step, {})[fact.element] = result
    run.result_bytes += size_of(result)
    if run.in_doubt:
        run.in_doubt.discard(f"{fact.step}.{fact.element}")


def _step_failed(run: Run, fact: StepFailed) -> None:
    """The request is no longer in doubt, unless the effect of the step is unknown."""
    name = request_name(fact.step, fact.part)
    if run.in_doubt and fact.unknown is UNSET:
        run.in_doubt.discard(name)
    if run.failures is None:
        run.failures = {}
    run.failures[name] = fact


def _wait_started(run: Run, fact: WaitStarted) -> None:
    run.last_wait = fact


def _step_passed(run: Run, fact: StepPassed) -> None:
    if run.passed_steps is None:
        run.passed_steps = {fact.position}
    else:
        run.passed_steps.add(fact.position)
    if fact.reply is not UNSET:
        if run.flow_reply is not None:
            run.result_bytes -= size_of(run.flow_reply)
        run.flow_reply = result_from_fields(fact.reply, fact.data)
        run.result_bytes += size_of(run.flow_reply)


def _stopping(run: Run, fact: Stopping) -> None:
    """No further step begins after this fact."""
    run.stopping = fact


def _step_undone(run: Run, fact: StepUndone) -> None:
    """The undo is done, so its request is no longer in doubt."""
    if run.undone_steps is None:
        run.undone_steps = {fact.step}
    else:
        run.undone_steps.add(fact.step)
    if run.in_doubt:
        run.in_doubt.discard(undo_request_name(fact.step))


def _parked(run: Run, fact: Parked) -> None:
    run.reason = fact.reason
    run.cause = None if fact.cause is UNSET else fact.cause


def _replying(run: Run, fact: Replying) -> None:
    """Keep the fact: the run has ended, but its outcome is not yet published."""
    run.replying = fact


def _settled(run: Run, fact: Settled) -> None:
    """Set the reason and the cause. Without a reason, the run keeps those of its placement."""
    if fact.reason:
        run.reason = fact.reason
        run.cause = None if fact.cause is UNSET else fact.cause


def _dead(run: Run, fact: Dead) -> None:
    run.reason, run.cause = fact.reason, fact.cause


def _state_only(_run: Run, _fact: Fact) -> None:
    """Do nothing: this fact changes only the state of the run, which the caller sets."""


APPLY_BY_TYPE: dict[type[Fact], Callable[[Run, Any], None]] = {
    Accepted: _accepted,
    Placed: _placed,
    Offered: _offered,
    Restarted: _restarted,
    RequestStarted: _request_started,
    Finished: _finished,
    ElementFinished: _element_finished,
    StepFailed: _step_failed,
    WaitStarted: _wait_started,
    StepPassed: _step_passed,
    Stopping: _stopping,
    StepUndone: _step_undone,
    Parked: _parked,
    Replying: _replying,
    Settled: _settled,
    Dead: _dead,
    **dict.fromkeys((Received, Released), _state_only),
}
