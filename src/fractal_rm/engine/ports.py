"""What the engine needs from outside, named for the need.

Each port has a real adapter and a shipped fake, and both pass the conformance suite in
``fractal_rm.testing``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Protocol

import msgspec

from fractal_rm.config.model import Node
from fractal_rm.domain.call import Caller as Components
from fractal_rm.domain.call import Route
from fractal_rm.domain.errors import JournalBlocked, Refused
from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.moment import Moment
from fractal_rm.domain.run import Outcome, Run
from fractal_rm.domain.state import State
from fractal_rm.domain.steady import Look, Reading
from fractal_rm.domain.trigger import Arrival

__all__ = [
    "Adopted", "Balancer", "BrokenRun", "Clock", "Components", "Entry", "History", "Journal",
    "KnownPeers", "Ledger", "Peers", "Prior", "Publisher", "Random", "Receipt", "Recovered",
    "RunDetail", "RunPage", "RunSummary", "Telemetry", "TimedFact",
]  # fmt: skip


# --- the journal: written by one process -----------------------------------------------------


class Entry(msgspec.Struct, frozen=True, gc=False):
    """A new run, or a dead letter that never became one (``flow`` is then None).

    ``state`` and ``reason`` are how it stands after ``facts``. ``key`` with ``digest`` make it
    findable until ``key_until_ms``; see ``accept``. That, and the moment ``retention_ms`` at which
    it is looked for, are on the retention clock (`domain.steady`); ``at_ms`` is wall time.
    """

    run_id: str
    flow: Flow | None
    at_ms: int
    facts: tuple[AnyFact, ...]
    state: State = State.ACCEPTED
    reason: str = ""
    key: str | None = None
    digest: str = ""
    key_until_ms: int = 0
    retention_ms: int = 0


class Prior(msgspec.Struct, frozen=True):
    """The run that has this key already."""

    run_id: str
    digest: str
    state: State


class BrokenRun(msgspec.Struct, frozen=True):
    """A run whose facts hold and still make no run of this release, and why.

    Of ``run`` the id, the flow's id and the time of acceptance are known, no more.
    """

    run: Run
    why: str


class Recovered(msgspec.Struct, frozen=True):
    """What a journal held when it was opened. ``clean``: its last process ended in order.

    ``newest`` is the id of the last run that was not handed over by a peer; empty: there is none.
    ``ended_ms``: when the newest run that has an end ended, on the retention clock.
    """

    runs: list[Run]
    clean: bool
    newest: str = ""
    ended_ms: int | None = None
    broken: list[BrokenRun] = []

    @property
    def latest_ms(self) -> int | None:
        """The latest moment of which it tells: an end, or else an acceptance; None: it is empty.

        Runs that a release without a steady clock accepted have wall time, which may be wrong.
        """
        if self.ended_ms is not None:
            return self.ended_ms
        return max((run.steady_ms for run in self.runs), default=None)


class Adopted(msgspec.Struct, frozen=True):
    """What came of a journal of the state folder that no process holds.

    ``found`` are open runs that are in our own journal now. ``left`` are the ids of those that stay
    there, as far as they can be read, and ``why``.
    """

    journal: str
    found: Recovered
    left: list[str] = []
    why: str = ""


class Journal(Protocol):
    """Facts of runs, appended in order. Group commit: facts given meanwhile share one fsync.

    ``accept`` and ``append`` are called on the event loop and never block it. Facts have the wall
    clock as it stands at the call, right or wrong; nothing is decided by it.
    """

    async def open(self) -> Recovered:
        """Take the journal, verify it, and return every run without an end, oldest first.

        A run that cannot be made of its facts is among the broken ones: it can be closed.

        Raises JournalInUse, JournalReadOnly, JournalBlocked, JournalDamaged, JournalTooNew,
        JournalTooOld.
        """
        ...

    def accept(self, entry: Entry) -> asyncio.Future[Prior | None]:
        """Write a new run. Done with None once it is durable; not to be cancelled.

        What is handed in during one turn of the event loop is done together, in order.

        Where ``entry.key`` is known, here or in a journal beside it, and its time has not ended,
        nothing is written but the count of duplicates, and the run that has it is returned.
        Raises JournalBlocked: nothing was written, and the same call may succeed later.
        """
        ...

    async def find(self, key: str, retention_ms: int) -> Prior | None:
        """The run that has this key, if its time has not ended by then. Counts nothing."""
        ...

    async def adopt(self) -> list[Adopted]:
        """Move the open runs of journals beside it that no process holds, durably, into this one.

        Each run is in one of them whenever a process ends. One that cannot be taken is said; it
        keeps nothing else from going on. May be called again and again: what was looked through is
        not looked at again until it has changed.
        """
        ...

    def append(self, run: Run, fact: AnyFact, at_ms: int) -> Awaitable[None]:
        """Add a fact that an open run has just followed; done once the fact is durable.

        It may be left alone: the fact is then written behind. While the journal is blocked it
        waits.
        """
        ...

    @property
    def blocked(self) -> JournalBlocked | None:
        """Why nothing can be written; None: it can, as far as is known."""
        ...

    @property
    def damage(self) -> str | None:
        """What is damaged in what it keeps of the past, as far as it has looked; None: nothing.

        It goes on all the same.
        """
        ...

    def look(self) -> None:
        """Find out now whether what is written will be found at the next start: see `blocked`.

        Each write looks as well, and is done only where that is so. Called on the event loop.
        """
        ...

    async def close(self, *, clean: bool) -> None:
        """Write what was given, mark how it ended, let go. May be called twice.

        Where that cannot be written, `blocked` says why, and the end counts as a crash.
        """
        ...


# --- the history: read by anybody, never blocks the writer -----------------------------------


class RunSummary(msgspec.Struct, frozen=True):
    """One line of a list of runs. Times are milliseconds since 1970, UTC."""

    id: str
    flow: str | None
    state: State
    reason: str
    source: str
    node: str | None
    accepted_ms: int
    settled_ms: int | None
    journal: str


class RunPage(msgspec.Struct, frozen=True):
    """Part of a list of runs, and what is damaged so that it could not be looked at."""

    runs: list[RunSummary]
    unreadable: list[str]


class TimedFact(msgspec.Struct, frozen=True):
    """A fact and when it was written."""

    at_ms: int
    fact: AnyFact


class RunDetail(msgspec.Struct, frozen=True):
    """A run with all its facts; ``unreadable`` says why some are not there, of one damaged."""

    summary: RunSummary
    facts: list[TimedFact]
    unreadable: str | None = None


class Ledger(msgspec.Struct, frozen=True):
    """Of one flow: how many triggers became runs, and in which state how many of those stand.

    ``received`` is counted from the facts and ``states`` from the runs, so that they can differ.
    ``duplicates`` came again and were answered with the run that they repeat. ``maybe_twice`` ran
    here after another node had been asked that may have executed them as well.
    """

    flow: str | None
    received: int
    states: Mapping[State, int]
    duplicates: int
    maybe_twice: int = 0


class History(Protocol):
    """All journals of a node's state folder, read-only. Calls block for a disk read."""

    def page(
        self,
        *,
        state: State | None = None,
        flow: str | None = None,
        limit: int = 50,
        before: str | None = None,
    ) -> RunPage:
        """The newest runs first; ``before`` is the id of the last run of the page before."""
        ...

    def run(self, run_id: str) -> RunDetail | None:
        """One run, or None."""
        ...

    def ledger(self) -> list[Ledger]:
        """The accounts of every flow, over all journals of the node."""
        ...


# --- other machines --------------------------------------------------------------------------


class Receipt(msgspec.Struct, frozen=True):
    """A peer of ours holds the run durably."""

    run: str
    epoch: int


class Peers(Protocol):
    """Offers runs to other Runtime Managers."""

    async def offer(
        self, node: Node, route: Route, run: Run, sender: str, *, left_ms: int | None = None
    ) -> Receipt | None:
        """Offer ``run`` under ``run.epoch``. None: a plain peer answered 2xx without a receipt.

        ``route`` is the one of the two of ``node`` that fits what is known of it.
        ``left_ms`` is how long it is worth something, so that the clocks need not agree.

        Raises OfferRefused where the peer certainly has not taken it, CallFailed where no answer
        could be had.
        """
        ...

    async def recognize(self, node: Node) -> bool:
        """Whether a node of this program answers there now. Nothing is executed for the question.

        Raises CallFailed where no answer could be had that tells.
        """
        ...


class KnownPeers(Protocol):
    """The addresses (`Node.address`) at which a node of this program has given a receipt.

    They outlive the process, as far as the disk allows; one that is forgotten is learned again.
    """

    def has(self, address: str) -> bool:
        """Whether one was given there. Never blocks."""
        ...

    async def add(self, address: str) -> None:
        """Remember an address; it counts at once, and is kept when this returns."""
        ...

    async def remove(self, address: str) -> None:
        """Forget an address."""
        ...


class Balancer(Protocol):
    """Knows which node should run something."""

    async def ask(self, route: Route) -> str | None:
        """The id of a node as text, or None for here. Raises CallFailed, BadReply."""
        ...


class Publisher(Protocol):
    """Sends messages to the MQTT broker."""

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish once at QoS 1; returns when the broker has it. Raises PublishFailed.

        ``correlation`` is the correlation data of a request that is answered (MQTT 5, 4.10).
        """
        ...


# --- the world -------------------------------------------------------------------------------


class Clock(Protocol):
    """Time. Waiting is asyncio's, so that a virtual loop can move both."""

    def now_ms(self) -> int:
        """Wall clock: milliseconds since 1970, UTC. May jump: nothing is measured by it."""
        ...

    def monotonic_s(self) -> float:
        """Seconds since some moment, as the event loop counts them: those awake."""
        ...

    def steady_ms(self) -> int:
        """Milliseconds on the clock that nobody sets, and that goes on in suspend."""
        ...

    def read(self) -> Reading:
        """Now on each clock; the wall clock as it was found by the last `look`."""
        ...

    def look(self) -> Look:
        """Follow what was done to the clocks since the last look."""
        ...

    def go_on_after(self, latest_ms: int | None) -> None:
        """Be the clock of a journal with this as its latest moment; see `Recovered.latest_ms`."""
        ...

    async def keep(self) -> None:
        """Let the steady clock outlive this process and the next reboot. Never raises."""
        ...

    def moment(self) -> Moment:
        """Now, as it can be written down and compared after a crash or a reboot."""
        ...


class Random(Protocol):
    """Randomness."""

    def fraction(self) -> float:
        """From 0 up to, not including, 1."""
        ...

    def token(self, size: int) -> bytes:
        """``size`` random bytes."""
        ...


class Telemetry(Protocol):
    """What happened, for logs and later metrics. Never raises, never blocks."""

    def run_settled(self, run: Run, steady_ms: Callable[[], int]) -> None:
        """A run ended. ``steady_ms`` tells the time now, on the clock of `Run.steady_ms`."""
        ...

    def event(self, name: str, **fields: object) -> None:
        """Something that an operator may want to know."""
        ...

    def problem(self, name: str, **fields: object) -> None:
        """Something that an operator should know."""
        ...


# --- what the engine offers to the ways in ---------------------------------------------------


class Taken(msgspec.Struct, frozen=True):
    """The answer to a trigger that is durable. ``duplicate``: its id was known, as this run."""

    run: str
    state: State
    duplicate: bool = False
    epoch: int | None = None


class Check(msgspec.Struct, frozen=True):
    """One condition of readiness, with a sentence for the operator."""

    name: str
    ok: bool
    text: str


class Intake(Protocol):
    """The one way in. MQTT, REST and hand-offs all end here."""

    async def receive(self, arrival: Arrival) -> Taken:
        """Take a trigger; it is durable when this returns. Raises Refused."""
        ...

    async def receive_all(self, arrivals: Sequence[Arrival]) -> list[Taken | Refused]:
        """Take triggers that came together, in order; they share what making them durable costs.

        A refusal stands in the place of its arrival.
        """
        ...

    async def set_aside(self, arrival: Arrival, refusal: Refused) -> None:
        """Keep what was refused for good as a dead letter; durable when this returns.

        Raises Busy where even that cannot be written now.
        """
        ...

    async def wait_for_room(self) -> None:
        """Return when a trigger that was refused with Busy may be tried again."""
        ...

    async def outcome(self, run_id: str, timeout_s: float) -> Outcome | None:
        """How a run ended, waiting at most ``timeout_s``; None if it has not by then.

        Knows runs of this process only, and ended ones for a short while.
        """
        ...

    def state_of(self, run_id: str) -> State | None:
        """Where an unfinished run of this process stands, or None."""
        ...

    def readiness(self) -> list[Check]:
        """Everything that must hold before triggers can be taken."""
        ...


class WayIn(Protocol):
    """A way in for triggers: a service that feeds an `Intake`. Stopping twice is legal.

    ``takes_over``: whether it can take the place of one that is open. Otherwise that one is stopped
    first.
    """

    takes_over: bool

    async def start(self, before: WayIn | None = None) -> None:
        """Begin to take triggers, in the place of ``before`` where one is given to take over.

        Raises FractalError where it never can, for example on a port that another program has;
        ``before`` then goes on.
        """
        ...

    async def stop(self) -> None:
        """Take no more, answer what was taken, let go."""
        ...

    def reconfigured(self) -> None:
        """Another configuration is in force, of which this way in's own section is the same."""
        ...

    def status(self) -> Check:
        """Whether triggers can come in this way now."""
        ...
