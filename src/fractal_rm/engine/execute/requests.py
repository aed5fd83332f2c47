"""Send the request of one attempt: in the gate of its component, before the deadline of its run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager, nullcontext
from functools import partial

from msgspec import UNSET

from fractal_rm.config.model import Component, Endpoint
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import CallTimedOut
from fractal_rm.domain.circuit import LEAST_TIME_S
from fractal_rm.domain.facts import RequestStarted
from fractal_rm.domain.flow import Call
from fractal_rm.domain.run import Run
from fractal_rm.engine.call_gates import CallGates, Passage, WaitEnded
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.execute.budgets import Budgets
from fractal_rm.engine.execute.pauses import Pauses, RunCancelled
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import CallPart, ComponentRequest, with_time_limit
from fractal_rm.engine.shared_slots import SharedSlots


class Requests:
    """Sends requests to components. ``gates`` are the gates of the components.

    There is one connection for each run in flight, which is enough for runs that make one call at a
    time. The concurrent calls of all runs share half as many additional connections
    (`SharedSlots`). A concurrent call waits for such a connection before its timeout begins.
    """

    def __init__(
        self,
        dependencies: Dependencies,
        runs: OpenRuns,
        recorder: Recorder,
        budgets: Budgets,
        pauses: Pauses,
    ) -> None:
        self._components = dependencies.components
        self._runs = runs
        self._recorder = recorder
        self._budgets = budgets
        self._pauses = pauses
        self._clock = dependencies.clock
        self._shared = SharedSlots(max(1, dependencies.connections // 2))
        self.gates = CallGates(dependencies.timers, dependencies.clock, dependencies.telemetry)

    async def send(
        self,
        run: Run,
        call: Call,
        component: Component,
        request: ComponentRequest,
        attempt: int,
        part: CallPart | None,
    ) -> tuple[HttpResponse, float]:
        """Send the request of one attempt, before the deadline of the run.

        Returns the response, and when the request was sent, on the monotonic clock. Raises
        CallFailed, TimeIsUp. Raises RunCancelled if the run is cancelled while it waits.

        `RequestStarted` is recorded for each attempt after it has entered the gate: a call that
        waits is not in doubt yet. If the call must not be repeated after a crash, `RequestStarted`
        is durable before the call is sent.
        """
        for_undo = part is not None and part.undo is not None
        is_concurrent = self._may_be_concurrent(run, call)
        async with (
            self._passage(run, component, for_undo=for_undo) as passage,
            self._shared.slot(component.name) if is_concurrent else nullcontext(),
        ):
            if run.cancel is not None and not for_undo:
                raise RunCancelled
            if run.flow.durable.per_step or not component.idempotent:
                await self._recorder.record_durably(run, _request_started(call, attempt, part))
            elif run.flow.order is not UNSET:
                # Several calls may be in flight. After a crash, this fact shows which calls were.
                self._recorder.record(run, _request_started(call, attempt, part))
            began_s = self._clock.monotonic_s()
            return await self._call(run, request, passage, for_undo=for_undo), began_s

    async def ask(
        self, run: Run, component: Component, probe: Endpoint, headers: bytes, *, for_undo: bool
    ) -> HttpResponse:
        """Send a question to the probe of a component; see `Probes`. Raises as `send` does."""
        async with self._passage(run, component, for_undo=for_undo) as passage:
            request = (probe.get, None, headers, None)
            return await self._call(run, request, passage, for_undo=for_undo)

    @asynccontextmanager
    async def _passage(
        self, run: Run, component: Component, *, for_undo: bool
    ) -> AsyncGenerator[Passage | None, None]:
        """Hold a passage through the gate of a component; None: it has no gate."""
        if component.gate is None:
            yield None
            return
        trial = component.probe and partial(self._components.call, component.probe.get)
        interruptible = None if for_undo else partial(self._pauses.ended_by, run)
        try:
            async with self.gates.passage(
                component.name, component.gate, trial, interruptible
            ) as passage:
                yield passage
        except WaitEnded:
            raise RunCancelled from None

    async def _call(
        self, run: Run, request: ComponentRequest, passage: Passage | None, *, for_undo: bool
    ) -> HttpResponse:
        """Send a request, before the deadline of the run unless it is for an UNDO."""
        if self._budgets.deadlines_s and not for_undo:
            response = await self._call_before_deadline(run, request, passage)
        else:
            response = await self._components.call(*request)
        if passage is not None:
            passage.response = response
        return response

    async def _call_before_deadline(
        self, run: Run, request: ComponentRequest, passage: Passage | None
    ) -> HttpResponse:
        """Call once, at most until the deadline of the run. Raises CallFailed, TimeIsUp."""
        left_s = self._budgets.left_s(run)
        if left_s is None:
            return await self._components.call(*request)
        try:
            return await self._components.call(*with_time_limit(request, left_s))
        except (CallTimedOut, asyncio.CancelledError) as error:
            if passage is not None and left_s >= LEAST_TIME_S and self._budgets.is_over(run):
                passage.response = CallTimedOut("no answer until the deadline of a run", sent=True)
            if isinstance(error, CallTimedOut):
                self._budgets.check(run)
            raise

    def _may_be_concurrent(self, run: Run, call: Call) -> bool:
        """Whether the run, or a run above it, may make other calls at the same time."""
        if (
            call.options is not UNSET
            and call.options.foreach is not None
            and call.options.foreach.max_parallel > 1
        ):
            return True
        current: Run | None = run
        while current is not None:
            if current.flow.order is not UNSET:
                return True
            current = self._runs.parent(current)
        return False


def _request_started(call: Call, attempt: int, part: CallPart | None) -> RequestStarted:
    return RequestStarted(call.number, attempt, UNSET if part is None else part.name)
