"""Gates: the limit, the rate and the circuit of each component, and the limit of each node.

A call enters the gate of its component, and leaves the gate when it has ended. While it may not
enter, it waits in line. A target without a rule has no gate.

    enter ──waits in line──> in flight ──leave
      └──> CircuitOpen: the circuit is open, and enough calls wait
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from contextlib import AbstractContextManager, asynccontextmanager, nullcontext

from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallFailed, CircuitOpen
from fractal_rm.domain.circuit import Circuit, CircuitState, failure_for_circuit
from fractal_rm.domain.gate_rule import NO_RULE, GateRule
from fractal_rm.domain.rate import TokenBucket
from fractal_rm.engine.ports import Clock, Telemetry
from fractal_rm.engine.timers import Timer, Timers

# Makes a context manager. In its block, a cancelled run calls the function, which ends the wait.
Interruptible = Callable[[Callable[[], None]], AbstractContextManager[None]]
# Makes the request of a trial. Its response decides about the circuit.
Trial = Callable[[], Awaitable[HttpResponse]]


class WaitEnded(Exception):
    """The wait in line was ended, because its run is cancelled."""


class Passage:
    """A call that has entered a gate. ``response`` is what it got; None: nothing is known yet.

    If ``response`` stays None, the call says nothing about the component.
    """

    __slots__ = ("is_trial", "response", "ticket")

    def __init__(self, ticket: int, *, is_trial: bool) -> None:
        self.ticket = ticket
        self.is_trial = is_trial
        self.response: HttpResponse | CallFailed | None = None


class CallGate:
    """The gate of one target. ``in_flight`` counts the calls that have entered it.

    ``changed_ms`` is the wall time at which the circuit opened or closed last.
    """

    def __init__(
        self,
        target: str,
        rule: GateRule,
        timers: Timers,
        bucket_since_s: float | None,
        on_change: Callable[[CallGate], None],
    ) -> None:
        self.target = target
        self.in_flight = 0
        self.circuit: Circuit | None = None
        self.changed_ms: int | None = None
        self._rule = NO_RULE
        self._timers = timers
        self._bucket_since_s = bucket_since_s
        self._on_change = on_change
        self._bucket: TokenBucket | None = None
        self._line: dict[asyncio.Future[Passage], None] = {}  # ordered: the first waits longest
        self._timer: Timer | None = None
        self.change_rule(rule)

    @property
    def waiting(self) -> int:
        """The number of calls in line."""
        return len(self._line)

    def change_rule(self, rule: GateRule) -> None:
        """Apply another rule, also to the calls in line. A circuit and a rate keep their state."""
        if rule == self._rule:
            return
        self._rule = rule
        if rule.circuit is None:
            self.circuit = None
        elif self.circuit is None:
            self.circuit = Circuit(rule.circuit)
        else:
            self.circuit.rule = rule.circuit
        if rule.rate is None:
            self._bucket = None
        elif self._bucket is None:
            self._bucket = TokenBucket(rule.rate, self._bucket_since_s)
        else:
            self._bucket.change(rule.rate)
        self._admit()

    async def enter(
        self, trial: Trial | None = None, interruptible: Interruptible | None = None
    ) -> Passage:
        """Wait in line until the call may begin. Call `leave` when it has ended.

        ``trial`` is sent instead of the call to try whether the component works again. Raises
        CircuitOpen if too many calls wait while the circuit is open. Raises WaitEnded if the wait
        is interrupted.
        """
        passage = await self._wait_in_line(interruptible)
        while passage.is_trial and trial is not None:
            try:
                passage.response = await trial()
            except CallFailed as error:
                passage.response = error
            finally:
                self.leave(passage)
            passage = await self._wait_in_line(interruptible, first=True)
        return passage

    def leave(self, passage: Passage) -> None:
        """Count the end of a call, and let calls in line enter."""
        self.in_flight -= 1
        circuit = self.circuit
        if circuit is not None:
            now_s = self._now_s()
            if passage.response is None:
                circuit.abandon(passage.ticket, now_s)
            elif circuit.end(passage.ticket, failure_for_circuit(passage.response), now_s):
                self._shorten_line(circuit)
                self._on_change(self)
        self._admit()

    async def _wait_in_line(
        self, interruptible: Interruptible | None, *, first: bool = False
    ) -> Passage:
        """``first``: the call has waited already, and goes to the front of the line."""
        if not self._line and self._wait_s() == 0:
            return self._begin()
        circuit = self.circuit
        if (
            circuit is not None
            and circuit.state is not CircuitState.CLOSED
            and len(self._line) >= circuit.rule.waiting
            and not first
        ):
            raise self._refusal(circuit)
        turn: asyncio.Future[Passage] = asyncio.get_running_loop().create_future()
        self._line = {turn: None, **self._line} if first else self._line
        self._line[turn] = None  # a key that is there already keeps its place
        self._admit()

        def end_wait() -> None:
            if not turn.done():
                turn.set_exception(WaitEnded())

        try:
            with nullcontext() if interruptible is None else interruptible(end_wait):
                return await turn
        except (asyncio.CancelledError, WaitEnded):
            if turn in self._line:
                del self._line[turn]
                self._admit()  # cancels the timer if nobody waits for it any more
            elif not turn.cancelled() and turn.exception() is None:
                self.leave(turn.result())  # it had got its turn in the same moment
            raise

    def _admit(self) -> None:
        """Let the calls in line enter, in order, as far as the rule allows it now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._line:
            wait_s = self._wait_s()
            if wait_s is None:  # a call that leaves calls this method again
                return
            if wait_s > 0:
                self._timer = self._timers.set(round(wait_s * 1000, 3), self._admit)
                return
            turn = next(iter(self._line))
            del self._line[turn]
            if not turn.done():
                turn.set_result(self._begin())

    def _wait_s(self) -> float | None:
        """The seconds until a call may enter. None: when a call leaves."""
        limit = self._rule.limit
        if limit is not None and self.in_flight >= limit:
            return None
        now_s = self._now_s()
        wait_s = 0.0 if self.circuit is None else self.circuit.wait_s(now_s)
        if wait_s is None or self._bucket is None:
            return wait_s
        return max(wait_s, self._bucket.wait_s(now_s))

    def _begin(self) -> Passage:
        self.in_flight += 1
        if self._bucket is not None:
            self._bucket.take(self._now_s())
        if self.circuit is None:
            return Passage(-1, is_trial=False)
        ticket = self.circuit.begin()
        return Passage(ticket, is_trial=self.circuit.state is CircuitState.HALF_OPEN)

    def _shorten_line(self, circuit: Circuit) -> None:
        """When the circuit has opened, refuse the last calls in line over its bound."""
        if circuit.state is CircuitState.OPEN:
            for turn in list(self._line)[circuit.rule.waiting :]:
                del self._line[turn]
                if not turn.done():
                    turn.set_exception(self._refusal(circuit))

    def _refusal(self, circuit: Circuit) -> CircuitOpen:
        return CircuitOpen(
            f"the circuit of {self.target} is {circuit.state.text},"
            f" and {circuit.rule.waiting:,} calls wait for it: {circuit.why}"
        )

    def _now_s(self) -> float:
        return self._timers.now_ms() / 1000


class CallGates:
    """The gates of all targets that have a rule, by name. A gate is made for its first call."""

    def __init__(self, timers: Timers, clock: Clock, telemetry: Telemetry) -> None:
        self._timers = timers
        self._clock = clock
        self._telemetry = telemetry
        self._gates: dict[str, CallGate] = {}
        self.last_used_s: float | None = None  # a call may have begun at this time, before a start

    def gate(self, target: str, rule: GateRule) -> CallGate:
        """The gate of a target. ``rule`` is its current rule."""
        gate = self._gates.get(target)
        if gate is None:
            gate = CallGate(target, rule, self._timers, self.last_used_s, self._note_change)
            self._gates[target] = gate
        else:
            gate.change_rule(rule)
        return gate

    @asynccontextmanager
    async def passage(
        self,
        target: str,
        rule: GateRule,
        trial: Trial | None = None,
        interruptible: Interruptible | None = None,
    ) -> AsyncGenerator[Passage, None]:
        """Hold a passage in a ``with`` block. A `CallFailed` that it raises is its response."""
        gate = self.gate(target, rule)
        passage = await gate.enter(trial, interruptible)
        try:
            yield passage
        except CallFailed as error:
            passage.response = error
            raise
        finally:
            gate.leave(passage)

    def find(self, target: str) -> CallGate | None:
        """The gate of a target. None: it has no rule, or there was no call yet."""
        return self._gates.get(target)

    def reconfigure(self, rules: Mapping[str, GateRule | None]) -> None:
        """Apply the rules of a new configuration, also to the calls in line."""
        for target, gate in list(self._gates.items()):
            gate.change_rule(rules.get(target) or NO_RULE)
            if not gate.in_flight and not gate.waiting and rules.get(target) is None:
                del self._gates[target]

    def _note_change(self, gate: CallGate) -> None:
        """Log that a circuit has opened or closed."""
        circuit, now_ms = gate.circuit, self._clock.now_ms()
        if circuit is None:
            return
        if circuit.state is CircuitState.OPEN:
            self._telemetry.problem(
                "circuit_opened", component=gate.target, why=circuit.why, waiting=gate.waiting,
                trial_after_s=circuit.rule.open_s,
            )  # fmt: skip
        else:
            open_s = round((now_ms - (gate.changed_ms or now_ms)) / 1000, 1)
            self._telemetry.event("circuit_closed", component=gate.target, was_open_s=open_s)
        gate.changed_ms = now_ms
