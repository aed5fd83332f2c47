"""HTTP calls: send a request, retry it, and record its result.

`domain.outcome` decides whether an attempt has failed and whether it is retried; `Calls.make` acts
on these decisions.
"""

from __future__ import annotations

from typing import cast

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Bounds, Component, Endpoint
from fractal_rm.domain.body import ORIGINAL_ERROR, SKIPPED
from fractal_rm.domain.call import HttpResponse
from fractal_rm.domain.call_errors import AnswerLost, CallFailed
from fractal_rm.domain.cancelling import ending_if_cancelled
from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.evaluation_context import EvaluationContext, ResponseHead
from fractal_rm.domain.facts import ElementFinished, Finished, Settled, StepUndone
from fractal_rm.domain.flow import Call, OnError, Retry
from fractal_rm.domain.flow_errors import CannotEvaluate, NotConfigured
from fractal_rm.domain.masking.responses import as_shown
from fractal_rm.domain.outcome import expectation_failure, failure_of, retry_delay_s
from fractal_rm.domain.probe import Done, NotDone
from fractal_rm.domain.result import fields_of_response, result_of
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.execute.budgets import Budgets
from fractal_rm.engine.execute.failed_attempts import FailedAttempts, failure_in, last_failure
from fractal_rm.engine.execute.pauses import Pauses, RunCancelled
from fractal_rm.engine.execute.probes import Probes
from fractal_rm.engine.execute.requests import Requests
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.queue.pace import Pace
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import (
    CallPart,
    ComponentRequest,
    build_request,
    context_of,
    with_trace,
)


class _InDoubt(Exception):
    """It is not known whether a call was executed, and it must not be made again."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.reason)
        self.failure = failure


class Calls:
    """Makes calls, and records their results. ``gates`` are the gates of the components."""

    def __init__(
        self,
        dependencies: Dependencies,
        runs: OpenRuns,
        recorder: Recorder,
        pace: Pace,
        budgets: Budgets,
        failed_attempts: FailedAttempts,
        pauses: Pauses,
    ) -> None:
        self._dependencies = dependencies
        self._recorder = recorder
        self._pace = pace
        self._budgets = budgets
        self._failed_attempts = failed_attempts
        self._requests = Requests(dependencies, runs, recorder, budgets, pauses)
        self._probes = Probes(dependencies, recorder, pauses, self._requests.ask)
        self.gates = self._requests.gates

    async def make(  # noqa: C901, PLR0911, PLR0912 - the loop over the attempts
        self, run: Run, call: Call, part: CallPart | None = None
    ) -> Settled | None:
        """Make one call with its retries, or only the request ``part`` of the call.

        Returns None if the call has its result. Otherwise returns how the run ends.
        """
        try:
            component, endpoint = self._target_of(call, part)
            last = lost = None
            progress = run.progress
            if progress.in_doubt or progress.failures:  # a crash may have interrupted attempts
                last = last_failure(run, _name(call, part))
                if last is not None and last.final is True:
                    return _ending(State.FAILED, call, failure_in(last), part)
                lost = _lost_answer(run, call, component, part)
            request = build_request(run, call, component, endpoint, self._dependencies.config, part)
        except CannotEvaluate as fault:
            return self.fail(run, call, Failure.of(fault), part)
        if request is None:
            return self.finish_without_response(run, call, SKIPPED, part)
        untraced = request
        route, body, headers, timeout_s = request
        dependencies = self._dependencies
        has_trace = run.accepted.traceparent is not UNSET or dependencies.config.traces is not None
        while True:
            attempt = 1 if last is None else last.attempt + 1
            if has_trace:
                name, sample = _name(call, part), dependencies.trace_sample
                request = with_trace(untraced, run, name, attempt, sample)
                route, body, headers, timeout_s = request
            try:
                if last is not None:
                    await self._failed_attempts.wait_for_next(
                        run, last, _retry(call), for_undo=_is_undo(part)
                    )
                began_s = self._dependencies.clock.monotonic_s()
                if self._is_plain(run, component, part):
                    response = await self._dependencies.components.call(
                        route, body, headers, timeout_s
                    )
                else:
                    response, began_s = await self._attempt(
                        run, call, component, request, attempt, part, lost
                    )
            except CallFailed as error:
                response, began_s = error, 0.0
            except RunCancelled:
                return ending_if_cancelled(run)
            except _InDoubt as doubt:
                return _ending(State.UNKNOWN, call, doubt.failure, part)
            failure = (
                failure_of(response)
                if call.options is UNSET
                else self._failure(run, call, response, part)
            )
            if failure is None:
                took_s = self._dependencies.clock.monotonic_s() - began_s
                # A CallFailed is always a failure, so this is a response.
                return self._finish(run, call, cast("HttpResponse", response), took_s, part)
            failure = as_shown(failure, response, run.flow)
            lost = None
            delay_s = self._retry_delay_s(call, component, response, attempt)
            name = UNSET if part is None else part.name
            last = self._failed_attempts.record(run, call.number, attempt, failure, delay_s, name)
            if delay_s is None:
                return self.fail(run, call, failure, part, response)

    @property
    def bounds(self) -> Bounds:
        """The bounds of the current configuration."""
        return self._dependencies.config.bounds

    def context(self, run: Run) -> EvaluationContext:
        """The context in which the next step of a run is evaluated."""
        return context_of(run, self.bounds)

    def _target_of(self, call: Call, part: CallPart | None) -> tuple[Component, Endpoint]:
        """The component and endpoint of a call. Raises NotConfigured."""
        name = call.endpoint if part is None else _endpoint(call, part)
        try:
            component = self._dependencies.config.components[call.component]
            return component, component.endpoints[name]
        except KeyError:
            raise NotConfigured("the endpoint is no longer in components.conf") from None

    def fail(
        self,
        run: Run,
        call: Call,
        failure: Failure,
        part: CallPart | None = None,
        response: HttpResponse | CallFailed | None = None,
    ) -> Settled | None:
        """Return how the run ends after a call that failed and is not retried.

        With ERRORS continue, the run does not end: the call gets a result, as in the original
        Runtime Manager. Then return None.
        """
        if run.flow.errors is not OnError.CONTINUE or _is_undo(part):
            return _ending(State.FAILED, call, failure, part)
        if isinstance(response, HttpResponse):
            return self._finish(run, call, response, 0, part)
        return self.finish_without_response(run, call, ORIGINAL_ERROR, part)

    def finish_without_response(
        self, run: Run, call: Call, result: msgspec.Raw, part: CallPart | None = None
    ) -> None:
        """Record a result that is not from a component."""
        if part is not None:
            fact = ElementFinished(call.number, part.element, 0, 0, result)
        else:
            fact = Finished(call.number, 0, 0, result)
        self._recorder.record(run, fact)

    def _is_plain(self, run: Run, component: Component, part: CallPart | None) -> bool:
        """Whether a call needs no slot, fact or time limit from `Requests`. True for most calls."""
        return (
            component.gate is None
            and component.idempotent
            and not run.flow.durable.per_step
            and not self._budgets.deadlines_s
            and run.flow.order is UNSET
            and run.accepted.origin is UNSET
            and part is None
        )

    async def _attempt(
        self,
        run: Run,
        call: Call,
        component: Component,
        request: ComponentRequest,
        attempt: int,
        part: CallPart | None,
        lost: AnswerLost | None,
    ) -> tuple[HttpResponse, float]:
        """Send a request, or find out what became of it if its answer is ``lost``.

        Returns the response, and when the request was sent. Raises CallFailed, RunCancelled,
        TimeIsUp, and _InDoubt if it is not known whether the call was executed.
        """
        try:
            if lost is not None:
                raise lost
            return await self._requests.send(run, call, component, request, attempt, part)
        except CallFailed as error:
            if component.idempotent or not error.sent:
                raise
            response = await self._find_out(run, call, component, part, error)
            return response, self._dependencies.clock.monotonic_s()

    async def _find_out(
        self, run: Run, call: Call, component: Component, part: CallPart | None, lost: CallFailed
    ) -> HttpResponse:
        """Ask the probe of the component for the response to a call. Raises as `_attempt` does."""
        if component.probe is None:
            if isinstance(lost, AnswerLost):
                raise _InDoubt(Failure.of(lost))
            raise lost
        answer = await self._probes.ask(run, call, component, component.probe, part)
        if isinstance(answer, Done):
            return answer.response
        if isinstance(answer, NotDone):
            words = "and its probe says that the call was not executed"
            raise AnswerLost(f"{lost.reason}, {words}", sent=False)
        words = "and its probe does not say whether the call was executed"
        raise _InDoubt(Failure(Cause.ANSWER_LOST, f"{lost.reason}, {words}: {answer.reason}"))

    def _failure(
        self, run: Run, call: Call, response: HttpResponse | CallFailed, part: CallPart | None
    ) -> Failure | None:
        """Why the call has failed, according to its EXPECT or its status. None: it succeeded."""
        options = call.options
        if options is UNSET or options.expect is None or isinstance(response, CallFailed):
            return failure_of(response)
        if _is_undo(part):
            return failure_of(response)
        head = ResponseHead(response.status, response.headers_by_name())
        context = self.context(run) if part is None else part.context
        context = context.with_response(call.number, result_of(response), head)
        return expectation_failure(
            options.expect, response, context, expect_decides=options.expect_decides
        )

    def _retry_delay_s(
        self, call: Call, component: Component, response: HttpResponse | CallFailed, attempt: int
    ) -> float | None:
        """The seconds until the call is retried. None: it is not retried."""
        return retry_delay_s(
            response,
            attempt,
            self._dependencies.random.fraction(),
            retry=_retry(call),
            idempotent=component.idempotent,
            now_ms=self._dependencies.clock.now_ms(),
        )

    def _finish(
        self, run: Run, call: Call, reply: HttpResponse, took_s: float, part: CallPart | None
    ) -> Settled | None:
        took_ms = int(took_s * 1_000_000) / 1000
        if part is not None and part.undo is not None:
            self._recorder.record(run, StepUndone(call.number, reply.status, took_ms))
            return
        self._pace.answers += 1
        json, data = fields_of_response(reply)
        if part is not None:
            fact = ElementFinished(call.number, part.element, reply.status, took_ms, json, data)
        else:
            headers = UNSET
            if call.options is not UNSET and call.options.kept_headers is not None:
                headers = _headers_in_use(call.options.kept_headers, reply)
            fact = Finished(call.number, reply.status, took_ms, json, headers, data)
        self._recorder.record(run, fact)


def _lost_answer(
    run: Run, call: Call, component: Component, part: CallPart | None
) -> AnswerLost | None:
    """The error of a call that was made before a crash, and must not be made again. Or None."""
    in_doubt = run.progress.in_doubt
    if component.idempotent or not in_doubt or _name(call, part) not in in_doubt:
        return None
    return AnswerLost("the component was called, and its answer was lost in a crash", sent=True)


def _is_undo(part: CallPart | None) -> bool:
    """Whether a request undoes a step."""
    return part is not None and part.undo is not None


def _endpoint(call: Call, part: CallPart) -> str:
    return call.endpoint if part.undo is None else part.undo.endpoint


def _name(call: Call, part: CallPart | None) -> str:
    return str(call.number) if part is None else part.name


def _retry(call: Call) -> Retry | None:
    return None if call.options is UNSET else call.options.retry


def _headers_in_use(names: tuple[str, ...], reply: HttpResponse) -> dict[str, str]:
    """The response headers that the flow refers to."""
    headers = {name: reply.header(name) for name in names}
    return {name: value for name, value in headers.items() if value is not None}


def _ending(state: State, call: Call, failure: Failure, part: CallPart | None = None) -> Settled:
    return Settled(state, f"{label_of(call, part)}: {failure.reason}", failure.cause)


def label_of(call: Call, part: CallPart | None = None) -> str:
    """The name of a call, for reasons of runs."""
    if part is not None and part.undo is not None:
        return f"undo of step {call.number}, {call.component} {part.undo.endpoint}"
    element = f", element {part.element}" if part is not None else ""
    return f"step {call.number}, {call.component} {call.endpoint}{element}"
