"""Execute: make a flow's calls one after another, passing results along."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Component
from fractal_rm.domain.body import ORIGINAL_ERROR, SKIPPED, result_text
from fractal_rm.domain.call import Reply
from fractal_rm.domain.errors import CallFailed, CannotEvaluate
from fractal_rm.domain.evaluate import Head
from fractal_rm.domain.flow import Call, Durable, Errors
from fractal_rm.domain.outcome import call_again_s, failure_of, unmet
from fractal_rm.domain.run import Finished, Run, Settled, Started, State, StepFailed
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.request import Request, request_of, seen_by
from fractal_rm.engine.slots import Slots
from fractal_rm.engine.waiting_room import WaitingRoom
from fractal_rm.engine.world import World


class Executor:
    """Makes calls under each component's own limit, and writes what came of them."""

    def __init__(self, world: World, runs: OpenRuns, room: WaitingRoom) -> None:
        self._world = world
        self._runs = runs
        self._room = room
        self._slots = Slots()

    def execute(self, run: Run) -> Awaitable[Settled]:
        """Go on after the last finished step, to the end. Comes to how the run ended."""
        if run.flow.deadline_ms is not UNSET:
            return self._in_time(run, run.flow.deadline_ms)
        return self._steps(run)

    async def _in_time(self, run: Run, deadline_ms: int) -> Settled:
        """The steps, cut off at the deadline, whatever they wait for.

        It counts from the trigger's acceptance, of which a crash leaves the wall time only; from
        here on it runs on a clock that does not jump.
        """
        spent_ms = max(0, self._world.clock.now_ms() - run.accepted_ms)
        try:
            return await asyncio.wait_for(self._steps(run), (deadline_ms - spent_ms) / 1000)
        except asyncio.TimeoutError:
            came = f"{len(run.results)} of {len(run.flow.steps)} calls were made"
            doubt = "" if run.in_doubt is None else f", and call {run.in_doubt} may have been"
            why = f"the deadline of {deadline_ms / 1000:g} s ended when {came}{doubt}"
            return Settled(State.EXPIRED, why)

    async def _steps(self, run: Run) -> Settled:
        for call in run.flow.steps[len(run.results) :]:
            ending = await self._step(run, call)
            if ending is not None:
                return ending
        return Settled(State.SUCCEEDED)

    async def _step(self, run: Run, call: Call) -> Settled | None:
        """Make one call. None: it has its result; otherwise how the run ends."""
        component = self._world.config.components.get(call.component)
        endpoint = component.endpoints.get(call.endpoint) if component else None
        if component is None or endpoint is None:
            return self._failed(run, call, "it is no longer in components.conf")
        if run.in_doubt == call.number and not component.idempotent:
            return _ended(State.UNKNOWN, call, "it was called, and its answer was lost in a crash")
        try:
            request = request_of(run, call, component, endpoint)
        except CannotEvaluate as fault:
            return self._failed(run, call, str(fault))
        if request is None:
            return self._put(run, call, SKIPPED)
        attempt = 0
        while True:
            attempt += 1
            began_s = self._world.clock.monotonic_s()
            answer = await self._attempt(run, call, component, request, attempt)
            failure = failure_of(answer) if call.terms is UNSET else _unmet(run, call, answer)
            if isinstance(answer, Reply) and failure is None:
                return self._finish(run, call, answer, self._world.clock.monotonic_s() - began_s)
            _ = self._runs.write(run, StepFailed(call.number, attempt, failure or ""))
            again_s = self._again_s(call, component, answer, attempt)
            if again_s is None:
                return self._failed(run, call, failure or "", answer)
            await asyncio.sleep(again_s)

    async def _attempt(
        self, run: Run, call: Call, component: Component, request: Request, attempt: int
    ) -> Reply | CallFailed:
        """Call once, in the component's slot.

        Where a crash must not repeat it unasked, that it leaves is written first: no earlier, as a
        call that still waits for its slot is in no doubt, and each time, as any attempt may arrive.
        """
        slot = self._slots.slot(component.name, component.limit)
        if slot is not None:
            await slot.acquire()
        try:
            if run.flow.durable is Durable.STEP or not component.idempotent:
                await self._runs.write(run, Started(call.number, attempt))
            return await self._world.components.call(*request)
        except CallFailed as error:
            return error
        finally:
            if slot is not None:
                slot.release()

    def _again_s(
        self, call: Call, component: Component, answer: Reply | CallFailed, attempt: int
    ) -> float | None:
        return call_again_s(
            answer,
            attempt,
            self._world.random.fraction(),
            retry=None if call.terms is UNSET else call.terms.retry,
            idempotent=component.idempotent,
            now_ms=self._world.clock.now_ms(),
        )

    def _finish(self, run: Run, call: Call, reply: Reply, took_s: float) -> None:
        result = result_text(reply)
        self._room.hold_result(len(memoryview(result)))
        fact = Finished(call.number, reply.status, round(took_s * 1000, 3), result)
        if call.terms is not UNSET and call.terms.keeps is not None:
            fact = msgspec.structs.replace(fact, headers=_kept(call.terms.keeps, reply))
        _ = self._runs.write(run, fact)

    def _put(self, run: Run, call: Call, result: msgspec.Raw) -> None:
        """A result without an answer."""
        self._room.hold_result(len(memoryview(result)))
        _ = self._runs.write(run, Finished(call.number, 0, 0, result))

    def _failed(
        self, run: Run, call: Call, why: str, answer: Reply | CallFailed | None = None
    ) -> Settled | None:
        """A step has failed for good: so has its run, unless the flow goes on as the original."""
        if run.flow.errors is not Errors.CONTINUE:
            return _ended(State.FAILED, call, why)
        if isinstance(answer, Reply):
            return self._finish(run, call, answer, 0)
        return self._put(run, call, ORIGINAL_ERROR)


def _unmet(run: Run, call: Call, answer: Reply | CallFailed) -> str | None:
    """Why an answer is not what the call expects, or None."""
    terms = call.terms
    if terms is UNSET or terms.expect is None or isinstance(answer, CallFailed):
        return failure_of(answer)
    head = Head(answer.status, answer.headers_by_name())
    seen = seen_by(run).with_answer(result_text(answer), head)
    return unmet(terms.expect, answer, seen, settles=terms.settles)


def _kept(names: tuple[str, ...], reply: Reply) -> dict[str, str]:
    """The headers that the flow asks for later."""
    found = {name: reply.header(name) for name in names}
    return {name: value for name, value in found.items() if value is not None}


def _ended(state: State, call: Call, why: str) -> Settled:
    return Settled(state, f"step {call.number}, {call.component} {call.endpoint}: {why}")
