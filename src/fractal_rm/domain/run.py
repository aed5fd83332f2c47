"""A run, and the facts that make it. The only place where a run changes state.

    accepted ──> running ──> succeeded | failed | unknown
       │  ▲         │
       │  └─────────┼──── offered ──> handed-off        (the offer came back: accepted again)
       ▼            ▼
     parked       dead                                  (released: accepted again)

A run is what its facts say, in order: `fold` makes it again from them after a crash.
"""

from __future__ import annotations

from enum import Enum
from typing import Union

import msgspec
from msgspec import UNSET

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.result import StepResult, as_shown, restored, size_of
from fractal_rm.domain.seen import Head

_OPEN_STATES = frozenset({"new", "accepted", "running", "offered", "parked"})


class State(str, Enum):
    """Where a run stands. The last group is ``final``: nothing more will happen to the run."""

    NEW = "new"
    ACCEPTED = "accepted"
    RUNNING = "running"
    OFFERED = "offered"
    PARKED = "parked"

    SUCCEEDED = "succeeded"
    FAILED = "failed"
    UNKNOWN = "unknown"
    HANDED_OFF = "handed-off"
    DEAD = "dead"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SUPERSEDED = "superseded"

    # Enum's own hash and value are Python functions, and states are read all day.
    __hash__ = str.__hash__

    def __init__(self, text: str) -> None:
        self.text = text
        self.final = text not in _OPEN_STATES


# Ends that somebody may have to look at.
TROUBLE = frozenset({State.FAILED, State.UNKNOWN, State.DEAD, State.EXPIRED})


# Facts and runs come by the thousand and hold no cycles, so nobody need look for some in them.
class Fact(msgspec.Struct, frozen=True, tag_field="fact", gc=False):
    """Something that happened to a run. Facts are kept for ever: fields are only added."""

    def change(self, run: Run) -> None:
        """Write into ``run`` what the fact says beside the state."""


class Accepted(Fact, frozen=True, tag="accepted"):
    """The trigger is ours. ``flow`` and ``version`` name the flow as it was at this moment.

    ``budget_ms``: how long from now it is worth something. ``origin``: the run and the step that
    it is a part of. ``reply_topic`` and ``correlation`` (MQTT 5, 4.10): where its end is told.
    ``ahead_ms``: how far the steady clock is ahead of the wall clock, where they do not agree.
    """

    flow: str
    version: str
    payload: msgspec.Raw
    source: str
    placed: bool = False
    key: str | None = None
    budget_ms: int | msgspec.UnsetType = UNSET
    origin: str | msgspec.UnsetType = UNSET
    reply_topic: str | msgspec.UnsetType = UNSET
    correlation: bytes | msgspec.UnsetType = UNSET
    traceparent: str | msgspec.UnsetType = UNSET
    ahead_ms: int | msgspec.UnsetType = UNSET

    def change(self, run: Run) -> None:
        """Take over what came."""
        run.payload, run.payload_bytes = self.payload, size_of(self.payload)
        run.placed, run.source = self.placed, self.source
        if self.budget_ms is not UNSET:
            run.budget_ms = self.budget_ms
        if self.origin is not UNSET:
            run.origin = self.origin
        if self.reply_topic is not UNSET:
            run.reply_topic = self.reply_topic
        if self.correlation is not UNSET:
            run.correlation = self.correlation
        if self.traceparent is not UNSET:
            run.traceparent = self.traceparent
        if self.ahead_ms is not UNSET:
            run.ahead_ms = self.ahead_ms


class Received(Fact, frozen=True, tag="received"):
    """It came as a hand-off from one of our own peers."""

    sender: str
    epoch: int


class Placed(Fact, frozen=True, tag="placed"):
    """Where it is to run and why; ``node`` is None for here.

    ``maybe_twice``: the node that it was offered to before may have executed it as well.
    """

    node: str | None
    reason: str
    maybe_twice: bool | msgspec.UnsetType = UNSET

    def change(self, run: Run) -> None:
        """Keep where it goes and why; placed here, it stays."""
        run.node, run.reason, run.offered = self.node, self.reason, False
        run.stays = self.node is None


class Offered(Fact, frozen=True, tag="offered"):
    """It is about to be offered to a peer; ``epoch`` names this offer.

    ``ours`` says that the peer was known to be one of ours, which remembers what it took.
    """

    node: str
    epoch: int
    ours: bool = False

    def change(self, run: Run) -> None:
        """Keep to whom it is offered, and which offer it is."""
        run.node, run.epoch, run.ours, run.offered = self.node, self.epoch, self.ours, True


class Begun(Fact, frozen=True, tag="begun"):
    """It is about to run again after a crash: its ``attempt``-th time, counted from 1."""

    attempt: int

    def change(self, run: Run) -> None:
        """Count the attempt."""
        run.attempts = self.attempt


class Started(Fact, frozen=True, tag="started"):
    """The request of a step is about to leave. ``attempt`` counts from 1.

    ``part`` names the request where it is not the one of its step: see `name_of`.
    """

    step: int
    attempt: int = 1
    part: str | msgspec.UnsetType = UNSET

    def change(self, run: Run) -> None:
        """From here on the request is in doubt."""
        name = name_of(self.step, self.part)
        if run.in_doubt is None:
            run.in_doubt = {name}
        else:
            run.in_doubt.add(name)
        run.stays = True


class Finished(Fact, frozen=True, tag="finished"):
    """A step has its result: the response text as a JSON string; null for a call that was skipped.

    That of a RUN is the reply of the other run, whatever JSON that is. ``status`` is 0 where there
    was no answer. ``headers``, names in lower case, are written where the flow asks for the head
    of this answer, and only those that it asks for. ``data`` is the result where it is bytes, and
    ``result`` is null then.
    """

    step: int
    status: int
    took_ms: float
    result: msgspec.Raw
    headers: dict[str, str] | msgspec.UnsetType = UNSET
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")

    def change(self, run: Run) -> None:
        """Keep the result; nothing of the step is in doubt."""
        result = self.result
        if self.data is not UNSET:
            result, run.has_bytes = self.data, True
        run.results[self.step] = result
        run.result_bytes += size_of(result)
        if self.headers is not UNSET:
            run.heads = {**(run.heads or {}), self.step: Head(self.status, self.headers)}
        if run.in_doubt:
            run.in_doubt.discard(str(self.step))
        if run.elements:
            elements = run.elements.pop(self.step, {})
            run.result_bytes -= sum(map(size_of, elements.values()))
        run.stays = True


class ElementFinished(Fact, frozen=True, tag="element-finished"):
    """The call for one element of a FOREACH has its result. ``element`` counts from 1.

    ``result`` and ``data`` are as in `Finished`.
    """

    step: int
    element: int
    status: int
    took_ms: float
    result: msgspec.Raw
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")

    def change(self, run: Run) -> None:
        """Keep the result until the step has its own."""
        if run.elements is None:
            run.elements = {}
        result = restored(self.result, self.data)
        run.elements.setdefault(self.step, {})[self.element] = result
        run.result_bytes += size_of(result)
        if run.in_doubt:
            run.in_doubt.discard(f"{self.step}.{self.element}")
        run.stays = True


class StepFailed(Fact, frozen=True, tag="step-failed"):
    """An attempt of a step failed. ``part`` is as in `Started`; a PUBLISH has the step 0.

    ``again`` is when the next attempt is due; ``final`` says that there will be none. The attempt 0
    stands for a step that ended the run without one; ``unknown``: what it has done is not known.
    """

    step: int
    attempt: int
    reason: str
    part: str | msgspec.UnsetType = UNSET
    again: Moment | msgspec.UnsetType = UNSET
    final: bool | msgspec.UnsetType = UNSET
    unknown: bool | msgspec.UnsetType = UNSET

    def change(self, run: Run) -> None:
        """The request is no longer in doubt: it is known to have failed."""
        name = name_of(self.step, self.part)
        if run.in_doubt:
            run.in_doubt.discard(name)
        if run.failures is None:
            run.failures = {}
        run.failures[name] = self
        run.stays = True


class Waiting(Fact, frozen=True, tag="waiting"):
    """A WAIT has begun, and when it ends. ``position`` counts the flow's steps from 0."""

    position: int
    until: Moment

    def change(self, run: Run) -> None:
        """Keep when it ends."""
        run.waiting = self
        run.stays = True


class Passed(Fact, frozen=True, tag="passed"):
    """A step without a number is done, or was skipped: a WAIT, a PUBLISH, a REPLY.

    ``reply`` is what a REPLY says, as JSON. ``position`` counts the flow's steps from 0. ``data``
    is what it says where that is bytes, and ``reply`` is null then.
    """

    position: int
    reply: msgspec.Raw | msgspec.UnsetType = UNSET
    data: bytes | msgspec.UnsetType = msgspec.field(default=UNSET, name="base64")

    def change(self, run: Run) -> None:
        """Keep that it is done, and what the sender is told."""
        if run.passed is None:
            run.passed = {self.position}
        else:
            run.passed.add(self.position)
        if self.reply is not UNSET:
            if run.said is not None:
                run.result_bytes -= size_of(run.said)
            run.said = restored(self.reply, self.data)
            run.result_bytes += size_of(run.said)
        run.stays = True


class Stopping(Fact, frozen=True, tag="stopping"):
    """The run is going to end so; first what its finished steps did is undone."""

    state: State
    reason: str

    def change(self, run: Run) -> None:
        """No step begins any more."""
        run.stopping = self
        run.stays = True


class Undone(Fact, frozen=True, tag="undone"):
    """The UNDO of a finished step was answered."""

    step: int
    status: int
    took_ms: float

    def change(self, run: Run) -> None:
        """Keep that it is done; it is not in doubt."""
        if run.undone is None:
            run.undone = {self.step}
        else:
            run.undone.add(self.step)
        if run.in_doubt:
            run.in_doubt.discard(undo_name(self.step))
        run.stays = True


class Parked(Fact, frozen=True, tag="parked"):
    """It waits for a person, and why."""

    reason: str

    def change(self, run: Run) -> None:
        """Keep why."""
        run.reason = self.reason


class Released(Fact, frozen=True, tag="released"):
    """A person let a parked run go on."""


class Replying(Fact, frozen=True, tag="replying"):
    """It has ended so; what is left is to tell it at the response topic of its sender."""

    state: State
    reason: str = ""

    def change(self, run: Run) -> None:
        """Keep how it ended: nothing of it runs any more."""
        run.replying = self


class Settled(Fact, frozen=True, tag="settled"):
    """How it ended, and why. Where that needs no reason, the one for its place stays."""

    state: State
    reason: str = ""

    def change(self, run: Run) -> None:
        """Keep why."""
        run.reason = self.reason or run.reason


class Dead(Fact, frozen=True, tag="dead"):
    """Set aside. For what never became a run, ``body`` is what came, shortened to a bound."""

    code: str
    reason: str
    source: str = ""
    body: bytes = b""

    def change(self, run: Run) -> None:
        """Keep why."""
        run.reason = self.reason


AnyFact = Union[
    Accepted, Received, Placed, Offered, Begun, Started, Finished, ElementFinished, StepFailed,
    Waiting, Passed, Stopping, Undone, Parked, Released, Replying,
    Settled, Dead,
]  # fmt: skip


def name_of(step: int, part: str | msgspec.UnsetType = UNSET) -> str:
    """The name of a request in its run, as it ends its Idempotency-Key.

    ``3``; ``3.2`` for the second element of a FOREACH; ``undo.3``. The message of a PUBLISH is
    named by the position of its step: ``@4``.
    """
    return str(step) if part is UNSET else part


def undo_name(step: int) -> str:
    """The name of the request that undoes a step."""
    return f"undo.{step}"


def parent_of(first: Fact) -> str | None:
    """The id of the run that a run is a part of, by its first fact; None: it is a whole."""
    origin = first.origin if isinstance(first, Accepted) else UNSET
    return None if origin is UNSET else origin.rpartition(":")[0]


def fault(error: Exception) -> Dead:
    """How a run ends that a fault of this program keeps from going on."""
    return Dead("internal", f"a fault in the Runtime Manager: {error!r}")


class ImpossibleFact(FractalError):
    """A fact that cannot follow on the state that the run is in: a damaged journal, or a bug."""

    code = "impossible-fact"


# Facts that say that a run is under way.
_UNDER_WAY: tuple[type[Fact], ...] = (
    Started, Finished, StepFailed, ElementFinished, Waiting, Passed, Stopping, Undone, Replying,
)  # fmt: skip
_NEXT: dict[State, dict[type[Fact], State]] = {
    **{state: {} for state in State if state.final},
    State.NEW: {Accepted: State.ACCEPTED, Dead: State.DEAD},
    State.ACCEPTED: {
        **dict.fromkeys((Received, Placed, Begun), State.ACCEPTED),
        **dict.fromkeys(_UNDER_WAY, State.RUNNING),
        Offered: State.OFFERED,
        Parked: State.PARKED,
        Dead: State.DEAD,
    },
    State.RUNNING: {
        **dict.fromkeys((Placed, Begun, *_UNDER_WAY), State.RUNNING),
        Parked: State.PARKED,
        Dead: State.DEAD,
    },
    State.OFFERED: {
        **dict.fromkeys((Offered, Begun), State.OFFERED),
        Placed: State.ACCEPTED,
        Replying: State.RUNNING,
        Parked: State.PARKED,
        Dead: State.DEAD,
    },
    State.PARKED: {Released: State.ACCEPTED},
}


class Run(msgspec.Struct, gc=False):
    """One run as its facts make it. What no fact has said is None.

    ``results`` are by number, in the order in which they came. ``in_doubt`` names
    requests that may have left without our knowing what came of them, ``failures`` the last failed
    attempt of each request that failed (names: `name_of`). ``elements`` are the results of a
    FOREACH that is not finished, by number and element. ``waiting`` is its last WAIT, ``passed``
    are positions of steps that have no number and are done, ``said`` is what a REPLY said.
    ``has_bytes``: one of the results is bytes.
    ``payload_bytes`` and ``result_bytes``: what came, and what has come of it so far, keeps so much
    in memory. ``accepted_ms`` is wall time, ``ahead_ms`` how far the steady clock was ahead of it.

    ``offered`` says that ``node`` may have the run, under ``epoch``; ``stays`` that it was placed
    here or that calls were tried here, so that it ends here too.
    """

    id: str
    flow: Flow
    accepted_ms: int
    payload: msgspec.Raw = msgspec.Raw(b"null")
    payload_bytes: int = 4
    placed: bool = False
    source: str = ""
    state: State = State.NEW
    reason: str = ""
    results: dict[int, StepResult] = {}
    has_bytes: bool = False
    result_bytes: int = 0
    heads: dict[int, Head] | None = None
    in_doubt: set[str] | None = None
    failures: dict[str, StepFailed] | None = None
    elements: dict[int, dict[int, StepResult]] | None = None
    passed: set[int] | None = None
    waiting: Waiting | None = None
    said: StepResult | None = None
    stopping: Stopping | None = None
    undone: set[int] | None = None
    attempts: int = 1
    node: str | None = None
    epoch: int = 0
    ours: bool = False
    offered: bool = False
    stays: bool = False
    budget_ms: int | None = None
    origin: str | None = None
    reply_topic: str | None = None
    correlation: bytes | None = None
    traceparent: str | None = None
    replying: Replying | None = None
    ahead_ms: int = 0

    @property
    def steady_ms(self) -> int:
        """Its acceptance on the steady clock, by which its age is measured."""
        return self.accepted_ms + self.ahead_ms

    @property
    def begun(self) -> bool:
        """Whether it is known to have left the line: it may be what ended the process."""
        placed = self.stays or self.epoch > 0 or self.node is not None
        return placed or self.attempts > 1 or self.replying is not None

    @property
    def position(self) -> int:
        """How many of its steps are done: where they are listed, the next one stands there."""
        return len(self.results) + (len(self.passed) if self.passed else 0)

    @property
    def failed_step(self) -> int | None:
        """The number of the step that failed for good, the last where several did; None: none."""
        final = [each.step for each in (self.failures or {}).values() if each.final is True]
        return final[-1] if final and final[-1] else None

    @property
    def reply(self) -> StepResult | None:
        """What its sender is told: what a REPLY said, or else the last result."""
        if self.said is not None or not self.results:
            return self.said
        return self.results[max(self.results)]

    def outcome(self) -> Outcome:
        """How it ended. The last result is a reply only of a run that succeeded."""
        results = tuple(as_shown(self.results[number]) for number in sorted(self.results))
        reply = self.reply if self.state is State.SUCCEEDED else self.said
        shown = None if reply is None else as_shown(reply)
        return Outcome(self.id, self.state, self.reason, results, shown)

    def apply(self, fact: Fact) -> None:
        """Change by one fact. Raises ImpossibleFact where the table has no such change."""
        self.state = next_state(self.state, fact)
        fact.change(self)


def next_state(state: State, fact: Fact) -> State:
    """The transition table. ``Settled`` carries its own state and ends any open run."""
    following = _NEXT[state].get(type(fact))
    if following is not None:
        return following
    if isinstance(fact, Settled) and not state.final and state is not State.NEW:
        return fact.state
    raise ImpossibleFact(f"{type(fact).__name__} cannot follow on {state}")


def fold(run: Run, facts: list[AnyFact]) -> Run:
    """Apply facts in order."""
    for fact in facts:
        run.apply(fact)
    return run


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended, as its waiting senders are told.

    ``results`` are response texts in the order of the flow, ``reply`` is the JSON that a sender
    gets who waits for one thing only; None where there is none. Bytes are ``{"base64": "…"}``.
    """

    run: str
    state: State
    reason: str = ""
    results: tuple[msgspec.Raw, ...] = ()
    reply: msgspec.Raw | None = None
