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
from fractal_rm.domain.facts import (
    Accepted,
    CancelRequested,
    Dead,
    Discarded,
    Fact,
    Offered,
    OfferInDoubt,
    Parked,
    Placed,
    Received,
    Released,
    Replying,
    Restarted,
    Settled,
    Stopping,
    none_if_unset,
)
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.progress import APPLY_TO_PROGRESS, Progress
from fractal_rm.domain.result import display_json
from fractal_rm.domain.state import BY_SENDER, NAMED, Placement, State
from fractal_rm.domain.transitions import NEXT, settling_transition

_NOT_ACCEPTED = Accepted("", "", msgspec.Raw(b"null"), "")  # before the first fact
_NOT_PLACED = (Placement.NOT_YET, BY_SENDER)


# There may be thousands of runs. They have no reference cycles, so the garbage collector need not
# track them.
class Run(msgspec.Struct, gc=False):
    """The state of one run. Only facts change this state.

    ``accepted`` is the first fact of the run. ``accepted_ms`` is the wall time of the acceptance.
    ``payload_bytes`` is the size of the payload. ``progress`` has the results of steps.
    ``attempts`` counts the executions: a restart of the node begins another execution.

    ``reason`` (for people) and ``cause`` (for programs) explain the state. ``cause`` is None if an
    older release recorded the fact. ``node`` is the id of another node: the balancer named that
    node, or the run is offered to it. It is None if there is no such node. ``offered`` is the last
    offer of the run. ``sender`` is the id of the node that handed the run off to this node.
    ``cancel`` is set if an operator asked to cancel the run. ``released`` is when an operator
    released it last, after it was parked.
    """

    id: str
    flow: Flow
    accepted_ms: int
    accepted: Accepted = _NOT_ACCEPTED
    payload_bytes: int = 4
    state: State = State.NEW
    placement: Placement = Placement.NOT_YET
    node: str | None = None
    offered: Offered | None = None
    sender: str | None = None
    reason: str = ""
    cause: Cause | None = None
    attempts: int = 1
    progress: Progress = msgspec.field(default_factory=Progress)
    stopping: Stopping | None = None
    replying: Replying | None = None
    cancel: CancelRequested | None = None
    released: Moment | None = None

    @property
    def epoch(self) -> int:
        """The epoch of the last offer; 0 if the run was not offered."""
        return 0 if self.offered is None else self.offered.epoch

    @property
    def steady_ms(self) -> int:
        """The time of acceptance on the steady clock, from which the age of a run is counted."""
        return self.accepted_ms + (self.accepted.ahead_ms or 0)

    @property
    def has_begun(self) -> bool:
        """Whether it is certain that the run left the queue. Such a run may have caused a crash."""
        placed = self.placement not in _NOT_PLACED
        return placed or self.attempts > 1 or self.replying is not None

    def outcome(self) -> Outcome:
        """The outcome for the sender. If it did not succeed, only a REPLY step gives a reply."""
        progress = self.progress
        results = tuple(display_json(progress.results[at]) for at in sorted(progress.results))
        reply = progress.reply if self.state is State.SUCCEEDED else progress.flow_reply
        reply_json = None if reply is None else display_json(reply)
        return Outcome(self.id, self.state, self.reason, results, reply_json)

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
    """Apply a fact, but not its transition: the state is neither checked nor changed.

    `Accepted`, `Placed` and `Offered` set the placement; other facts do not change it.
    """
    APPLY_BY_TYPE[type(fact)](run, fact)


def parent_id_of(first: Fact) -> str | None:
    """The id of a run's parent, from the first fact of the run. None if the run has no parent."""
    origin = first.origin if isinstance(first, Accepted) else UNSET
    return None if origin is UNSET else origin.rpartition(":")[0]


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended, for senders that wait for it.

    ``results`` are in the order of the flow. ``reply`` is the reply to the sender as JSON, or None
    if there is no reply. Bytes, in results and in the reply, are ``{"base64": "…"}``.
    """

    run: str
    state: State
    reason: str = ""
    results: tuple[msgspec.Raw, ...] = ()
    reply: msgspec.Raw | None = None


# --- what each fact changes besides the state -----------------------------------------------------


def _apply_accepted(run: Run, fact: Accepted) -> None:
    run.accepted, run.payload_bytes = fact, len(fact.payload)
    if fact.placed:
        run.placement = BY_SENDER


def _apply_placed(run: Run, fact: Placed) -> None:
    run.node, run.reason = None, fact.reason
    run.cause = None if fact.cause is UNSET else fact.cause
    if fact.node is not None and fact.node != run.accepted.node:
        run.node, run.placement = fact.node, NAMED


def _apply_offered(run: Run, fact: Offered) -> None:
    run.node, run.offered = fact.node, fact
    if fact.runs_this_program:
        run.placement = Placement.OFFERED


def _apply_offer_in_doubt(run: Run, fact: OfferInDoubt) -> None:
    run.reason, run.cause = fact.reason, Cause.PEER_SILENT


def _apply_received(run: Run, fact: Received) -> None:
    run.sender = fact.sender or None


def _apply_restarted(run: Run, fact: Restarted) -> None:
    run.attempts = fact.attempt


def _apply_stopping(run: Run, fact: Stopping) -> None:
    """No further step begins after this fact."""
    run.stopping = fact


def _apply_parked(run: Run, fact: Parked) -> None:
    run.reason = fact.reason
    run.cause = none_if_unset(fact.cause)


def _apply_released(run: Run, fact: Released) -> None:
    run.released = none_if_unset(fact.at)


def _apply_cancel_requested(run: Run, fact: CancelRequested) -> None:
    """Store the fact. `engine` then ends the run as CANCELLED."""
    run.cancel = fact


def _apply_replying(run: Run, fact: Replying) -> None:
    """Store the fact: the run has ended, but its outcome is not yet published."""
    run.replying = fact


def _apply_settled(run: Run, fact: Settled) -> None:
    """Set the reason and the cause. If the fact has no reason, keep those of the placement."""
    if fact.reason:
        run.reason = fact.reason
        run.cause = none_if_unset(fact.cause)


def _apply_dead(run: Run, fact: Dead) -> None:
    run.reason, run.cause = fact.reason, fact.cause


def _apply_state_only(_run: Run, _fact: Fact) -> None:
    """Do nothing: this fact changes only the state of the run, which the caller sets."""


APPLY_BY_TYPE: dict[type[Fact], Callable[[Run, Any], None]] = {
    Accepted: _apply_accepted,
    Placed: _apply_placed,
    Offered: _apply_offered,
    OfferInDoubt: _apply_offer_in_doubt,
    Received: _apply_received,
    Restarted: _apply_restarted,
    Stopping: _apply_stopping,
    Parked: _apply_parked,
    Replying: _apply_replying,
    Settled: _apply_settled,
    Dead: _apply_dead,
    **APPLY_TO_PROGRESS,
    Released: _apply_released,
    CancelRequested: _apply_cancel_requested,
    Discarded: _apply_state_only,
}
