"""The steps without a result, and so without a number: WAIT, PUBLISH, REPLY."""

from __future__ import annotations

from typing import Union

from msgspec import UNSET

from fractal_rm.domain.body import message_body, reply_of
from fractal_rm.domain.call_errors import CallFailed, PublishFailed
from fractal_rm.domain.cancelling import ending_if_cancelled
from fractal_rm.domain.cause import Cause, Failure
from fractal_rm.domain.condition import is_true
from fractal_rm.domain.evaluation_context import EvaluationContext
from fractal_rm.domain.facts import Settled, StepPassed, WaitStarted
from fractal_rm.domain.flow import OnError, Publish, Reply, Retry, Wait
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.moment import left_ms
from fractal_rm.domain.outcome import ResumeLater, retry_delay_s
from fractal_rm.domain.result import fields_of_result
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.execute.failed_attempts import FailedAttempts, failure_in, last_failure
from fractal_rm.engine.execute.pauses import Pauses, RunCancelled
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import context_of

MAX_WAIT_IN_SLOT_MS = 3_000  # a run in a longer WAIT frees its slot
# All retries together take longer than a restart of the broker (or of this node) and the new
# connection.
PUBLISH_RETRY = Retry(7, 100)

Unnumbered = Union[Wait, Publish, Reply]


class UnnumberedSteps:
    """Executes WAIT, PUBLISH and REPLY. `StepPassed` records that such a step is done."""

    def __init__(
        self,
        dependencies: Dependencies,
        recorder: Recorder,
        failed_attempts: FailedAttempts,
        pauses: Pauses,
    ) -> None:
        self._dependencies = dependencies
        self._recorder = recorder
        self._failed_attempts = failed_attempts
        self._pauses = pauses

    async def execute(
        self, run: Run, position: int, step: Unnumbered
    ) -> Settled | ResumeLater | None:
        """Execute a step. Returns None if the step is done; else how the run ends or resumes."""
        try:
            if step.when is not None and not is_true(step.when, self._context(run)):
                self._recorder.record(run, StepPassed(position))
                return None
            if isinstance(step, Wait):
                return await self._wait(run, position, step)
            if isinstance(step, Publish):
                return await self._publish(run, position, step)
            self._reply(run, position, step)
        except CannotEvaluate as fault:
            return self._fail(run, position, step, Failure.of(fault))
        except RunCancelled:
            return ending_if_cancelled(run)
        return None

    def _context(self, run: Run) -> EvaluationContext:
        return context_of(run, self._dependencies.config.bounds)

    async def _wait(self, run: Run, position: int, step: Wait) -> ResumeLater | None:
        """Wait. First, record the end of the wait durably, so that a restart does not delay it."""
        wait_fact = run.progress.last_wait
        if wait_fact is None or wait_fact.position != position:
            wait_fact = WaitStarted(position, self._dependencies.clock.moment().after(step.ms))
            await self._recorder.record_durably(run, wait_fact)
        remaining_ms = left_ms(wait_fact.until, self._dependencies.clock.moment(), step.ms)
        if remaining_ms > MAX_WAIT_IN_SLOT_MS:
            return ResumeLater(remaining_ms / 1000)
        await self._pauses.pause(run, remaining_ms)
        self._recorder.record(run, StepPassed(position))
        return None

    async def _publish(self, run: Run, position: int, step: Publish) -> Settled | None:
        """Publish at least once. After a crash before `StepPassed` is durable, publish again."""
        body = message_body(step.content, self._context(run))
        name = f"@{position}"
        last = last_failure(run, name)
        while last is None or last.final is UNSET:
            attempt = 1
            if last is not None:
                attempt = last.attempt + 1
                await self._failed_attempts.wait_for_next(run, last)
            try:
                await self._dependencies.publisher.publish(step.topic, body)
            except PublishFailed as error:
                delay_s = self._publish_retry_delay_s(error, attempt)
                failure = Failure(Cause.PUBLISH_FAILED, str(error))
                last = self._failed_attempts.record(run, 0, attempt, failure, delay_s, name)
            else:
                durable = self._recorder.record_durably(run, StepPassed(position))
                if run.flow.durable.per_step:
                    await durable
                return None
        return self._fail(run, position, step, failure_in(last))

    def _publish_retry_delay_s(self, error: PublishFailed, attempt: int) -> float | None:
        """The seconds until the next try; None: no retry. QoS 1 allows to send a message twice."""
        if error.final:
            return None
        unsent_call = CallFailed(str(error), sent=False)
        return retry_delay_s(
            unsent_call, attempt, self._dependencies.random.fraction(), retry=PUBLISH_RETRY
        )

    def _reply(self, run: Run, position: int, step: Reply) -> None:
        reply = reply_of(step.content, self._context(run))
        self._recorder.record(run, StepPassed(position, *fields_of_result(reply)))

    def _fail(self, run: Run, position: int, step: Unnumbered, failure: Failure) -> Settled | None:
        if run.flow.errors is OnError.CONTINUE:
            self._recorder.record(run, StepPassed(position))
            return None
        return Settled(State.FAILED, f"{label_of(step)}: {failure.reason}", failure.cause)


def label_of(step: Unnumbered) -> str:
    """The name of a step, for reasons of runs."""
    match step:
        case Publish():
            return f"PUBLISH {step.topic}"
        case Wait():
            return "WAIT"
        case Reply():
            return "REPLY"
