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

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.evaluate import Head
from fractal_rm.domain.flow import Flow


class State(str, Enum):
    """Where a run stands. The last group is final."""

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

    __hash__ = str.__hash__  # Enum's own is a Python function, and states are looked up all day

    @property
    def final(self) -> bool:
        """Whether nothing more will happen to the run."""
        return self not in _OPEN


_OPEN = frozenset({State.NEW, State.ACCEPTED, State.RUNNING, State.OFFERED, State.PARKED})


class Fact(msgspec.Struct, frozen=True, tag_field="fact"):
    """Something that happened to a run. Facts are kept for ever: fields are only added."""

    def change(self, run: Run) -> None:
        """Write into ``run`` what the fact says beside the state."""


class Accepted(Fact, frozen=True, tag="accepted"):
    """The trigger is ours. ``flow`` and ``version`` name the flow as it was at this moment.

    ``budget_ms``: how long from now it is worth something. ``origin``: the run and the step that
    it is a part of. ``reply_topic`` and ``correlation`` (MQTT 5, 4.10): where its end is told.
    """

    flow: str
    version: str
    payload: msgspec.Raw
    source: str
    placed: bool = False
    key: str | None = None
    budget_ms: int | msgspec.UnsetType = msgspec.UNSET
    origin: str | msgspec.UnsetType = msgspec.UNSET
    reply_topic: str | msgspec.UnsetType = msgspec.UNSET
    correlation: bytes | msgspec.UnsetType = msgspec.UNSET
    traceparent: str | msgspec.UnsetType = msgspec.UNSET

    def change(self, run: Run) -> None:
        """Take over what came."""
        run.payload, run.placed, run.source = self.payload, self.placed, self.source
        if self.budget_ms is not msgspec.UNSET:
            run.budget_ms = self.budget_ms
        if self.origin is not msgspec.UNSET:
            run.origin = self.origin
        if self.reply_topic is not msgspec.UNSET:
            run.reply_topic = self.reply_topic
        if self.correlation is not msgspec.UNSET:
            run.correlation = self.correlation
        if self.traceparent is not msgspec.UNSET:
            run.traceparent = self.traceparent


class Received(Fact, frozen=True, tag="received"):
    """It came as a hand-off from one of our own peers."""

    sender: str
    epoch: int


class Placed(Fact, frozen=True, tag="placed"):
    """Where it is to run and why; ``node`` is None for here."""

    node: str | None
    reason: str

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
    """The request of a step is about to leave. ``attempt`` counts from 1."""

    step: int
    attempt: int = 1

    def change(self, run: Run) -> None:
        """From here on the step is in doubt."""
        run.in_doubt = self.step
        run.stays = True


class Finished(Fact, frozen=True, tag="finished"):
    """A step has its result: the response text as a JSON string; null for a call that was skipped.

    ``status`` is 0 where there was no answer. ``headers``, names in lower case, are written where
    the flow asks for the head of this answer, and only those that it asks for.
    """

    step: int
    status: int
    took_ms: float
    result: msgspec.Raw
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET

    def change(self, run: Run) -> None:
        """Keep the result; nothing is in doubt."""
        run.results.append(self.result)
        if self.headers is not msgspec.UNSET:
            run.heads = {**(run.heads or {}), self.step: Head(self.status, self.headers)}
        run.in_doubt = None
        run.stays = True


class StepFailed(Fact, frozen=True, tag="step-failed"):
    """An attempt of a step failed."""

    step: int
    attempt: int
    reason: str

    def change(self, run: Run) -> None:
        """The step is no longer in doubt: it is known to have failed."""
        run.in_doubt = None
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
    Accepted, Received, Placed, Offered, Begun, Started, Finished, StepFailed, Parked, Released,
    Replying, Settled, Dead,
]  # fmt: skip


class ImpossibleFact(FractalError):
    """A fact that cannot follow on the state that the run is in: a damaged journal, or a bug."""

    code = "impossible-fact"


_NEXT: dict[tuple[State, type[Fact]], State] = {
    (State.NEW, Accepted): State.ACCEPTED,
    (State.NEW, Dead): State.DEAD,
    (State.ACCEPTED, Received): State.ACCEPTED,
    (State.ACCEPTED, Placed): State.ACCEPTED,
    (State.ACCEPTED, Begun): State.ACCEPTED,
    (State.ACCEPTED, Offered): State.OFFERED,
    (State.ACCEPTED, Started): State.RUNNING,
    (State.ACCEPTED, Finished): State.RUNNING,
    (State.ACCEPTED, StepFailed): State.RUNNING,
    (State.ACCEPTED, Replying): State.RUNNING,
    (State.ACCEPTED, Parked): State.PARKED,
    (State.ACCEPTED, Dead): State.DEAD,
    (State.RUNNING, Placed): State.RUNNING,
    (State.RUNNING, Begun): State.RUNNING,
    (State.RUNNING, Started): State.RUNNING,
    (State.RUNNING, Finished): State.RUNNING,
    (State.RUNNING, StepFailed): State.RUNNING,
    (State.RUNNING, Replying): State.RUNNING,
    (State.RUNNING, Parked): State.PARKED,
    (State.RUNNING, Dead): State.DEAD,
    (State.OFFERED, Offered): State.OFFERED,
    (State.OFFERED, Begun): State.OFFERED,
    (State.OFFERED, Placed): State.ACCEPTED,
    (State.OFFERED, Replying): State.RUNNING,
    (State.OFFERED, Parked): State.PARKED,
    (State.OFFERED, Dead): State.DEAD,
    (State.PARKED, Released): State.ACCEPTED,
}


class Run(msgspec.Struct):
    """One run as its facts make it. ``results[n]`` is the result of call n+1, as a JSON string.

    ``in_doubt`` is a step whose request may have left without our knowing its result; ``offered``
    says that ``node`` may have the run, under ``epoch``; ``stays`` that it was placed here or that
    calls were tried here, so that it ends here too.
    """

    id: str
    flow: Flow
    accepted_ms: int
    payload: msgspec.Raw = msgspec.Raw(b"null")
    placed: bool = False
    source: str = ""
    state: State = State.NEW
    reason: str = ""
    results: list[msgspec.Raw] = msgspec.field(default_factory=list[msgspec.Raw])
    heads: dict[int, Head] | None = None
    in_doubt: int | None = None
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

    @property
    def begun(self) -> bool:
        """Whether it is known to have left the line: it may be what ended the process."""
        return self.stays or self.epoch > 0 or self.node is not None or self.attempts > 1

    @property
    def payload_bytes(self) -> int:
        """What its payload keeps in memory."""
        return len(memoryview(self.payload))

    @property
    def result_bytes(self) -> int:
        """What its results so far keep in memory."""
        return sum([len(memoryview(result)) for result in self.results])

    def apply(self, fact: Fact) -> None:
        """Change by one fact. Raises ImpossibleFact where the table has no such change."""
        self.state = next_state(self.state, fact)
        fact.change(self)


def next_state(state: State, fact: Fact) -> State:
    """The transition table. ``Settled`` carries its own state and ends any open run."""
    following = _NEXT.get((state, type(fact)))
    if following is not None:
        return following
    if isinstance(fact, Settled) and state is not State.NEW and not state.final:
        return fact.state
    raise ImpossibleFact(f"{type(fact).__name__} cannot follow on {state}")


def fold(run: Run, facts: list[AnyFact]) -> Run:
    """Apply facts in order."""
    for fact in facts:
        run.apply(fact)
    return run


class Outcome(msgspec.Struct, frozen=True):
    """How a run ended, as its waiting senders are told. Results are response texts, in order."""

    run: str
    state: State
    reason: str = ""
    results: tuple[msgspec.Raw, ...] = ()
