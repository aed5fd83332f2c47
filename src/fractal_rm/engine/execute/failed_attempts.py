"""Failed attempts of a step: their facts, and the pause before the next attempt.

`domain.outcome` decides whether there is a next attempt.
"""

from __future__ import annotations

from msgspec import UNSET, UnsetType

from fractal_rm.domain.cause import Failure
from fractal_rm.domain.facts import StepFailed
from fractal_rm.domain.flow import Retry
from fractal_rm.domain.moment import left_ms
from fractal_rm.domain.outcome import MAX_RETRY_AFTER_S
from fractal_rm.domain.run import Run
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.execute.pauses import Pauses
from fractal_rm.engine.recorder import Recorder


class FailedAttempts:
    """Records failed attempts as facts, so that they are still counted after a crash."""

    def __init__(self, dependencies: Dependencies, recorder: Recorder, pauses: Pauses) -> None:
        self._clock = dependencies.clock
        self._pauses = pauses
        self._recorder = recorder

    def record(
        self,
        run: Run,
        step: int,
        attempt: int,
        failure: Failure,
        delay_s: float | None,
        part: str | UnsetType = UNSET,
    ) -> StepFailed:
        """Record a failed attempt. ``delay_s``: seconds until the next one; None: there is none."""
        fact = StepFailed(
            step,
            attempt,
            failure.reason,
            part,
            UNSET if delay_s is None else self._clock.moment().after(delay_s * 1000),
            final=True if delay_s is None else UNSET,
            cause=failure.cause,
            answer=failure.answer,
        )
        self._recorder.record(run, fact)
        return fact

    async def wait_for_next(
        self, run: Run, failure: StepFailed, retry: Retry | None = None, *, for_undo: bool = False
    ) -> None:
        """Wait until the next attempt is due. After a crash, wait for the rest of the pause.

        Raises RunCancelled; see `Pauses.pause`.
        """
        if failure.retry_at is not UNSET:
            max_ms = max(MAX_RETRY_AFTER_S * 1000, retry.every_ms if retry else 0)
            remaining_ms = left_ms(failure.retry_at, self._clock.moment(), max_ms)
            await self._pauses.pause(run, remaining_ms, for_undo=for_undo)


def last_failure(run: Run, name: str) -> StepFailed | None:
    """The last failed attempt of a request. ``name``: see `domain.facts.request_name`."""
    return run.progress.failures.get(name) if run.progress.failures else None


def failure_in(last: StepFailed) -> Failure:
    """Why an attempt failed, from its fact."""
    return Failure(last.cause, last.reason, last.answer)


def failed_for_good(run: Run) -> list[str]:
    """The names of the requests that failed and are not retried."""
    return [name for name, last in (run.progress.failures or {}).items() if last.final is True]
