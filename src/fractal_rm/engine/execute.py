"""Execute: make a flow's calls one after another, passing results along."""

from __future__ import annotations

import asyncio

from fractal_rm.config.model import Component, Endpoint
from fractal_rm.domain.body import request_body, result_text
from fractal_rm.domain.call import Reply
from fractal_rm.domain.errors import CallFailed
from fractal_rm.domain.flow import Call, Durable, Method
from fractal_rm.domain.outcome import connect_again_s, reply_failure
from fractal_rm.domain.run import Finished, Run, Settled, Started, State, StepFailed
from fractal_rm.engine.open_runs import OpenRuns
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
        if run.flow.durable is Durable.STEP or not component.idempotent:
            await self._runs.write(run, Started(call.number))
        began_s = self._world.clock.monotonic_s()
        async with self._slots.slot(component.name, component.limit):
            answer = await self._answer(run, call, component, endpoint)
        if isinstance(answer, str):
            return _ended(State.FAILED, call, answer)
        took_ms = (self._world.clock.monotonic_s() - began_s) * 1000
        result = result_text(answer)
        self._room.hold_bytes(len(bytes(result)))
        _ = self._runs.write(run, Finished(call.number, answer.status, round(took_ms, 3), result))
        return None

    async def _answer(
        self, run: Run, call: Call, component: Component, endpoint: Endpoint
    ) -> Reply | str:
        """The reply, or why there is none. What was never sent is tried again."""
        body = None
        route = endpoint.get
        if call.method is Method.POST:
            route = endpoint.post
            body = request_body(call.items, run.payload, run.results, component.body)
        headers = f"Idempotency-Key: {run.id}:{call.number}\r\n".encode()
        attempt = 1
        while True:
            try:
                reply = await self._world.components.call(route, body, headers)
            except CallFailed as error:
                failure: str | None = str(error)
                again_s = (
                    None if error.sent else connect_again_s(attempt, self._world.random.fraction())
                )
            else:
                failure, again_s = reply_failure(reply.status, reply.body), None
                if failure is None:
                    return reply
            _ = self._runs.write(run, StepFailed(call.number, attempt, failure))
            if again_s is None:
                return failure
            await asyncio.sleep(again_s)
            attempt += 1


def _ended(state: State, call: Call, why: str) -> Settled:
    return Settled(state, f"step {call.number}, {call.component} {call.endpoint}: {why}")
