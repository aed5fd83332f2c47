"""One call over HTTP: made in its component's slot, tried again, and written down."""

from __future__ import annotations

from contextlib import nullcontext
from typing import cast

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Bounds, Component, Endpoint
from fractal_rm.domain.body import ORIGINAL_ERROR, SKIPPED
from fractal_rm.domain.call import Reply
from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.errors import CallFailed, CallTimedOut, CannotEvaluate, NotConfigured
from fractal_rm.domain.facts import ElementFinished, Finished, Settled, Started, Undone
from fractal_rm.domain.flow import Call, Errors, Retry
from fractal_rm.domain.outcome import call_again_s, failure_of, unmet
from fractal_rm.domain.result import result_of, stored_result_of
from fractal_rm.domain.run import Run
from fractal_rm.domain.seen import Head, Seen
from fractal_rm.domain.state import State
from fractal_rm.engine.execute.budgets import Budgets
from fractal_rm.engine.execute.tries import Tries, failure_in, last_failure
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.queue.pace import Pace
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import Part, Request, request_of, seen_by, within
from fractal_rm.engine.slots import SharedSlots, Slots
from fractal_rm.engine.world import World


class Calls:
    """Makes calls under each component's own limit, and writes what came of them.

    A run in flight makes one call at a time, for which there is a connection. Runs that may have
    several calls under way share half as many connections beside those; a call waits for one of
    them before its own time begins. A component that hangs leaves some to the others.
    """

    def __init__(
        self,
        world: World,
        runs: OpenRuns,
        recorder: Recorder,
        pace: Pace,
        budgets: Budgets,
    ) -> None:
        self._world = world
        self._runs = runs
        self._recorder = recorder
        self._pace = pace
        self._budgets = budgets
        self._tries = Tries(world, recorder)
        self._slots = Slots()
        self._shared = SharedSlots(max(1, world.connections // 2))

    async def make(self, run: Run, call: Call, part: Part | None = None) -> Settled | None:
        """Make one call, or a part of one. None: it has its result; otherwise how the run ends."""
        try:
            component, endpoint = self._called(call, part)
            last = None
            if run.in_doubt or run.failures:
                ending = _ending_before(run, call, component, part)
                if ending is not None:
                    return ending
                last = last_failure(run, _name(call, part))
            request = request_of(run, call, component, endpoint, self._world.config, part)
        except CannotEvaluate as fault:
            return self.fail(run, call, Failure.of(fault), part)
        if request is None:
            return self.put(run, call, SKIPPED, part)
        route, body, headers, timeout_s = request
        while True:
            attempt = 1
            if last is not None:
                attempt = last.attempt + 1
                await self._tries.pause(last, _retry(call))
            began_s = self._world.clock.monotonic_s()
            try:
                answer = await (
                    self._world.components.call(route, body, headers, timeout_s)
                    if self._is_plain(run, component, part)
                    else self._attempt(run, call, component, request, attempt, part)
                )
            except CallFailed as error:
                answer = error
            failure = (
                failure_of(answer) if call.terms is UNSET else self._unmet(run, call, answer, part)
            )
            if isinstance(answer, Reply) and failure is None:
                took_s = self._world.clock.monotonic_s() - began_s
                return self._finish(run, call, answer, took_s, part)
            failure = cast("Failure", failure)  # as a call without an answer is one
            again_s = self._again_s(call, component, answer, attempt)
            name = UNSET if part is None else part.name
            last = self._tries.failed(run, call.number, attempt, failure, again_s, name)
            if again_s is None:
                return self.fail(run, call, failure, part, answer)

    @property
    def bounds(self) -> Bounds:
        """Those in force."""
        return self._world.config.bounds

    def seen(self, run: Run) -> Seen:
        """What the next step of a run can refer to."""
        return seen_by(run, self.bounds)

    def _called(self, call: Call, part: Part | None) -> tuple[Component, Endpoint]:
        component = self._world.config.components.get(call.component)
        named = call.endpoint if part is None else _endpoint(call, part)
        endpoint = component.endpoints.get(named) if component else None
        if component is None or endpoint is None:
            raise NotConfigured("it is no longer in components.conf")
        return component, endpoint

    def fail(
        self,
        run: Run,
        call: Call,
        why: Failure,
        part: Part | None = None,
        answer: Reply | CallFailed | None = None,
    ) -> Settled | None:
        """A call has failed for good: so has its run, unless the flow goes on as the original."""
        if run.flow.errors is not Errors.CONTINUE or (part is not None and part.undo is not None):
            return _ended(State.FAILED, call, why, part)
        if isinstance(answer, Reply):
            return self._finish(run, call, answer, 0, part)
        return self.put(run, call, ORIGINAL_ERROR, part)

    def put(
        self, run: Run, call: Call, result: msgspec.Raw, part: Part | None = None
    ) -> Settled | None:
        """Write a result that no component gave."""
        if part is not None:
            fact = ElementFinished(call.number, part.element, 0, 0, result)
        else:
            fact = Finished(call.number, 0, 0, result)
        self._recorder.record(run, fact)

    def _is_plain(self, run: Run, component: Component, part: Part | None) -> bool:
        """Whether a call needs nothing of what `_attempt` sees to: most do not."""
        return (
            component.limit is None
            and component.idempotent
            and not run.flow.durable.each_step
            and not self._budgets.ends_s
            and run.flow.order is UNSET
            and run.origin is None
            and part is None
        )

    def _has_others_beside(self, run: Run, call: Call) -> bool:
        """Whether a run, or the one that carries it, may have other calls under way meanwhile."""
        if call.terms is not UNSET and call.terms.each is not None and call.terms.each.at_once > 1:
            return True
        above: Run | None = run
        while above is not None:
            if above.flow.order is not UNSET:
                return True
            above = self._runs.parent(above)
        return False

    async def _attempt(
        self,
        run: Run,
        call: Call,
        component: Component,
        request: Request,
        attempt: int,
        part: Part | None,
    ) -> Reply:
        """Call once, in its turn, within the run's time. Raises CallFailed.

        Where a crash must not repeat it unasked, that it leaves is written first: no earlier, as a
        call that still waits for its turn is in no doubt, and each time, as any attempt may arrive.
        """
        slot = self._slots.slot(component.name, component.limit)
        beside = self._has_others_beside(run, call)
        shared = self._shared.slot(component.name) if beside else nullcontext()
        async with slot or nullcontext(), shared:
            if run.flow.durable.each_step or not component.idempotent:
                await self._recorder.record_durably(run, _started(call, attempt, part))
            elif run.flow.order is not UNSET:
                # Where others are in flight too, a crash leaves what was with this one.
                self._recorder.record(run, _started(call, attempt, part))
            if self._budgets.ends_s and (part is None or part.undo is None):
                return await self._timed(run, request)
            return await self._world.components.call(*request)

    async def _timed(self, run: Run, request: Request) -> Reply:
        """Call once, in a world where some runs have to end by a moment. Raises TimeIsUp."""
        left_s = self._budgets.left_s(run)
        if left_s is None:
            return await self._world.components.call(*request)
        try:
            return await self._world.components.call(*within(request, left_s))
        except CallTimedOut:
            self._budgets.check(run)
            raise

    def _unmet(
        self, run: Run, call: Call, answer: Reply | CallFailed, part: Part | None
    ) -> Failure | None:
        """Why an answer is not what the call expects, or None."""
        terms = call.terms
        if terms is UNSET or terms.expect is None or isinstance(answer, CallFailed):
            return failure_of(answer)
        if part is not None and part.undo is not None:
            return failure_of(answer)
        head = Head(answer.status, answer.headers_by_name())
        before = self.seen(run) if part is None else part.seen
        seen = before.with_answer(call.number, result_of(answer), head)
        return unmet(terms.expect, answer, seen, settles=terms.settles)

    def _again_s(
        self, call: Call, component: Component, answer: Reply | CallFailed, attempt: int
    ) -> float | None:
        return call_again_s(
            answer,
            attempt,
            self._world.random.fraction(),
            retry=_retry(call),
            idempotent=component.idempotent,
            now_ms=self._world.clock.now_ms(),
        )

    def _finish(
        self, run: Run, call: Call, reply: Reply, took_s: float, part: Part | None
    ) -> Settled | None:
        took_ms = int(took_s * 1_000_000) / 1000
        if part is not None and part.undo is not None:
            self._recorder.record(run, Undone(call.number, reply.status, took_ms))
            return
        self._pace.answers += 1
        json, data = stored_result_of(reply)
        if part is not None:
            fact = ElementFinished(call.number, part.element, reply.status, took_ms, json, data)
            self._recorder.record(run, fact)
            return
        fact = Finished(call.number, reply.status, took_ms, json, data=data)
        if call.terms is not UNSET and call.terms.keeps is not None:
            fact = msgspec.structs.replace(fact, headers=_kept(call.terms.keeps, reply))
        self._recorder.record(run, fact)


def _ending_before(run: Run, call: Call, component: Component, part: Part | None) -> Settled | None:
    """How a call that was made before a crash ends its run, or None: it is made."""
    name = _name(call, part)
    if run.in_doubt and name in run.in_doubt and not component.idempotent:
        why = Failure(Cause.ANSWER_LOST, "it was called, and its answer was lost in a crash")
        return _ended(State.UNKNOWN, call, why, part)
    last = last_failure(run, name)
    if last is None or last.final is not True:
        return None
    return _ended(State.FAILED, call, failure_in(last), part)


def _endpoint(call: Call, part: Part) -> str:
    return call.endpoint if part.undo is None else part.undo.endpoint


def _name(call: Call, part: Part | None) -> str:
    return str(call.number) if part is None else part.name


def _retry(call: Call) -> Retry | None:
    return None if call.terms is UNSET else call.terms.retry


def _started(call: Call, attempt: int, part: Part | None) -> Started:
    return Started(call.number, attempt, UNSET if part is None else part.name)


def _kept(names: tuple[str, ...], reply: Reply) -> dict[str, str]:
    """The headers that the flow asks for."""
    found = {name: reply.header(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _ended(state: State, call: Call, why: Failure, part: Part | None = None) -> Settled:
    return Settled(state, f"{words_of(call, part)}: {why.reason}", why.cause)


def words_of(call: Call, part: Part | None = None) -> str:
    """A call as a reason names it."""
    if part is not None and part.undo is not None:
        return f"undo of step {call.number}, {call.component} {part.undo.endpoint}"
    element = f", element {part.element}" if part is not None else ""
    return f"step {call.number}, {call.component} {call.endpoint}{element}"
