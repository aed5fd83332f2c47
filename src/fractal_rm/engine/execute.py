"""Execute: make a flow's calls one after another, passing results along."""

from __future__ import annotations

import asyncio

from fractal_rm.config.model import Component, Endpoint
from fractal_rm.domain.body import request_body, result_text
from fractal_rm.domain.call import Reply, Route
from fractal_rm.domain.errors import CallFailed
from fractal_rm.domain.flow import Call, Durable, Method
from fractal_rm.domain.outcome import call_again_s, failure_of
from fractal_rm.domain.run import Finished, Run, Settled, Started, State, StepFailed
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.slots import Slots
from fractal_rm.engine.waiting_room import WaitingRoom
from fractal_rm.engine.world import World

Request = tuple[Route, bytes | None, bytes]  # what Components.call takes: route, body, header lines


class Executor:
    """Makes calls under each component's own limit, and writes what came of them."""

    def __init__(self, world: World, runs: OpenRuns, room: WaitingRoom) -> None:
        self._world = world
        self._runs = runs
        self._room = room
        self._slots = Slots()

    async def execute(self, run: Run) -> Settled:
        """Go on after the last finished step, to the end. Returns how the run ended."""
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
            return _ended(State.FAILED, call, "it is no longer in components.conf")
        if run.in_doubt == call.number and not component.idempotent:
            return _ended(State.UNKNOWN, call, "it was called, and its answer was lost in a crash")
        request = _request(run, call, component, endpoint)
        attempt = 0
        while True:
            attempt += 1
            began_s = self._world.clock.monotonic_s()
            answer = await self._attempt(run, call, component, request, attempt)
            failure = failure_of(answer)
            if isinstance(answer, Reply) and failure is None:
                self._finish(run, call, answer, self._world.clock.monotonic_s() - began_s)
                return None
            _ = self._runs.write(run, StepFailed(call.number, attempt, failure or ""))
            again_s = call_again_s(answer, attempt, self._world.random.fraction())
            if again_s is None:
                return _ended(State.FAILED, call, failure or "")
            await asyncio.sleep(again_s)

    async def _attempt(
        self, run: Run, call: Call, component: Component, request: Request, attempt: int
    ) -> Reply | CallFailed:
        """Call once, in the component's slot.

        Where a crash must not repeat it unasked, that it leaves is written first: no earlier, as a
        call that still waits for its slot is in no doubt, and each time, as any attempt may arrive.
        """
        async with self._slots.slot(component.name, component.limit):
            if run.flow.durable is Durable.STEP or not component.idempotent:
                await self._runs.write(run, Started(call.number, attempt))
            try:
                return await self._world.components.call(*request)
            except CallFailed as error:
                return error

    def _finish(self, run: Run, call: Call, reply: Reply, took_s: float) -> None:
        result = result_text(reply)
        self._room.hold_result(len(memoryview(result)))
        fact = Finished(call.number, reply.status, round(took_s * 1000, 3), result)
        _ = self._runs.write(run, fact)


def _request(run: Run, call: Call, component: Component, endpoint: Endpoint) -> Request:
    headers = f"Idempotency-Key: {run.id}:{call.number}\r\n".encode()
    if call.method is Method.GET:
        return endpoint.get, None, headers
    body = request_body(call.items, run.payload, run.results, component.body)
    return endpoint.post, body, headers


def _ended(state: State, call: Call, why: str) -> Settled:
    return Settled(state, f"step {call.number}, {call.component} {call.endpoint}: {why}")
