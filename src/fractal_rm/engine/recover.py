"""Recover: at start, decide for each unfinished run in the journal how it continues.

If the recovery of a run fails, that run is set aside, and the start continues with the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from msgspec import UNSET

from fractal_rm.domain.admission import is_last_attempt, is_stale, is_too_old
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Dead, Parked, Released, Replying, dead_by_fault
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.moment import past_ms
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE, OFFERED, State
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.execute.waits import WaitingCheck
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.ports import Recovered
from fractal_rm.engine.queue.permits import Permits


class Recovery:
    """Queues recovered runs, oldest first. Parks old runs. Sets aside runs after many crashes."""

    def __init__(self, dependencies: Dependencies, lifecycle: Lifecycle) -> None:
        self._dependencies = dependencies
        self._lifecycle = lifecycle
        self._runs = lifecycle.runs
        self._recorder = lifecycle.recorder
        self._queue = lifecycle.queue

    async def recover(self, recovered: Recovered) -> None:
        """Queue, park or set aside each run of a journal. Raises JournalError."""
        for run in (*recovered.runs, *(broken.run for broken in recovered.broken)):
            self._runs.add(run)
        for broken in recovered.broken:
            reason = f"the run was found at start: {broken.why}"
            await self._set_aside(broken.run, Dead(Cause.UNREADABLE.text, reason))
        check_at_crash = None if recovered.clean else self._check_at_crash(recovered.runs)
        for run in recovered.runs:
            try:
                if not self._resume_or_park(run, check_at_crash):
                    await self._stop_after_crashes(run)
            except JournalError:  # noqa: PERF203 - one broken run must not stop the others
                raise
            except Exception as error:  # noqa: BLE001
                await self._set_aside(run, dead_by_fault(error), error)

    def _check_at_crash(self, runs: Iterable[Run]) -> WaitingCheck:
        """Return a check that finds the runs that only waited at the crash.

        The check uses the permits that the runs held at the crash.
        """
        permits = Permits(self._runs, self._dependencies.config.flows)
        for run in runs:
            if run.state is State.PARKED or self._runs.parent(run) is not None:
                continue
            if run.placement is HERE:
                permits.deferred[run.flow.id] += 1
            permits.retake_for_children(run)
        return WaitingCheck(self._runs, permits, self._dependencies.clock)

    def _resume_or_park(self, run: Run, check_at_crash: WaitingCheck | None) -> bool:
        """Queue a run again, or park it. Returns False if the run may have caused the crashes."""
        is_parked = run.state is State.PARKED and run.cancel is None
        if run.state.final or is_parked or self._runs.parent(run) is not None:
            return True  # the run has ended, or an operator or its parent run continues it
        bounds, age_ms = self._dependencies.config.bounds, self._age_ms(run)
        is_ending = run.replying is not None or run.cancel is not None
        is_old = is_too_old(age_ms, bounds.recovery_max_age_s) and not is_ending
        if is_old and not is_stale(run, self._dependencies.clock.steady_ms()):
            reason = f"the run was found at start, {age_ms // 1000} s after its trigger"
            self._recorder.record(run, Parked(reason, Cause.OLD))
        elif check_at_crash is None:
            self._readmit(run)
        elif (
            run.has_begun
            and run.attempts >= bounds.max_attempts
            and not _is_harmless(run, check_at_crash)
        ):
            return False
        else:
            self._begin_again(run)
        return True

    async def _set_aside(self, run: Run, dead: Dead, error: Exception | None = None) -> None:
        """Set aside a run with its child runs, which would never continue without it."""
        self._dependencies.telemetry.problem(
            "run_set_aside", run=run.id, reason=dead.reason, exc_info=error
        )
        for child in [each for each in self._runs if self._runs.parent(each) is run]:
            reason = f"its parent run {run.id} is set aside"
            await self._set_aside(child, Dead(Cause.PARENT.text, reason))
        self._queue.release_permits(run)
        await self._settle(run, dead)

    def _age_ms(self, run: Run) -> int:
        """The age of a run in milliseconds: since its trigger, its release, or its last WAIT.

        The age does not grow during a WAIT. It is at most the age of the youngest open child run.
        """
        clock = self._dependencies.clock
        age_ms = clock.steady_ms() - run.steady_ms
        if run.progress.last_wait is not None:
            age_ms = min(age_ms, past_ms(run.progress.last_wait.until, clock.moment()))
        if run.released is not None:
            age_ms = min(age_ms, past_ms(run.released, clock.moment()))
        for child in self._runs.children(run):
            age_ms = min(age_ms, self._age_ms(child))
        return age_ms

    async def _stop_after_crashes(self, run: Run) -> None:
        """Set aside a run that was in flight at too many crashes. Its reply is published first.

        If another node may have the run, park it instead.
        """
        if run.placement in OFFERED:
            self._park_offered(run)
            return
        reason = f"the run was in flight {run.attempts} times when the Runtime Manager ended"
        await self._lifecycle.executor.set_aside_children(run)  # a child may be the cause
        if run.accepted.reply_topic is UNSET:
            await self._settle(run, Dead(Cause.ATTEMPTS.text, reason))
        else:
            await self._recorder.record_durably(run, Replying(State.DEAD, reason, Cause.ATTEMPTS))
            self._begin_again(run)

    async def _settle(self, run: Run, dead: Dead) -> None:
        """Write how a run ended, and notify the callers that wait for its outcome."""
        if (notified := self._recorder.settle(run, dead)) is not None:
            await notified

    def _begin_again(self, run: Run) -> None:
        """Queue a run again. Its next attempt is counted, and may be the last one."""
        self._lifecycle.attempts.add_interrupted(run)
        last_attempt = is_last_attempt(
            run.attempts + 1, self._dependencies.config.bounds.max_attempts
        )
        self._readmit(run, last_attempt=last_attempt)

    def _park_offered(self, run: Run) -> None:
        """Park a run that another node may have, until a person releases it."""
        reason = (
            f"the run was offered to node {run.node}, whose answer is not known,"
            f" and was in flight {run.attempts} times when the Runtime Manager ended"
        )
        self._dependencies.telemetry.problem("offer_in_doubt", run=run.id, reason=reason)
        self._recorder.record(run, Parked(reason, Cause.ATTEMPTS))

    def _readmit(self, run: Run, *, last_attempt: bool = False) -> None:
        """Queue a run again when the permits (LIMIT) of the run and its descendants are free.

        Other runs may hold these permits if the run was parked, or adopted from another process.
        """
        self._queue.permits.resume_when_available(
            run, partial(self._enqueue, run, last_attempt=last_attempt)
        )

    def _enqueue(self, run: Run, *, last_attempt: bool) -> None:
        if run.state is State.PARKED:
            self._recorder.record(run, Released(at=self._dependencies.clock.moment()))
        self._queue.permits.retake_for_children(run)
        self._queue.readmit(run, last_attempt=last_attempt)

    def release_all(self) -> int:
        """Resume all parked runs. Returns their number."""
        parked = [run for run in self._runs if run.state is State.PARKED]
        for run in parked:
            self.release(run)
        return len(parked)

    def release(self, run: Run, released: Released | None = None) -> None:
        """Resume a parked run. If it held a permit, it begins when the permit is free.

        ``released`` is the fact to record now; None: `Released` is recorded when the run begins.
        """
        if released is not None:
            self._recorder.record(run, released)
        self._readmit(run)


def _is_harmless(run: Run, check_at_crash: WaitingCheck) -> bool:
    """Whether a run cannot have caused the crash: it only waits, or only its reply is unsent."""
    return run.replying is not None or check_at_crash.is_only_waiting(run)
