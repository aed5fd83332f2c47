"""Recover: at start, decide what happens to each run in the journal that has not ended.

A fault in one of them sets that run aside, and the start continues with the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

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
    """Queues the runs that were found, oldest first; parks old ones, sets aside dangerous ones."""

    def __init__(self, world: Dependencies, lifecycle: Lifecycle) -> None:
        self._world = world
        self._lifecycle = lifecycle
        self._runs = lifecycle.runs
        self._recorder = lifecycle.recorder
        self._queue = lifecycle.queue

    async def recover(self, found: Recovered) -> None:
        """Decide for each run that was found. Raises JournalError."""
        for run in (*found.runs, *(broken.run for broken in found.broken)):
            self._runs.add(run)
        for broken in found.broken:
            why = f"found at start: {broken.why}"
            await self._set_aside(broken.run, Dead(Cause.UNREADABLE.text, why))
        crashed = None if found.clean else self._at_the_crash(found.runs)
        for run in found.runs:
            try:
                if not self._resumes(run, crashed):
                    await self._end(run)
            except JournalError:  # noqa: PERF203 - each by itself: the others are not at fault
                raise
            except Exception as error:  # noqa: BLE001
                await self._set_aside(run, dead_by_fault(error), error)

    def _at_the_crash(self, runs: Iterable[Run]) -> WaitingCheck:
        """Tells which runs only waited at the crash, by the permits that all of them held then."""
        permits = Permits(self._runs, self._world.config.flows)
        for run in runs:
            if run.state is State.PARKED or self._runs.parent(run) is not None:
                continue
            if run.placement is HERE:
                permits.deferred[run.flow.id] += 1
            permits.retake_for_children(run)
        return WaitingCheck(self._runs, permits, self._world.clock)

    def _resumes(self, run: Run, crashed: WaitingCheck | None) -> bool:
        """Queue it again, or park it. False: it may be the cause of the crashes."""
        if run.state.final or run.state is State.PARKED or self._runs.parent(run) is not None:
            return True  # an operator resumes it, or it ends with the run that has begun it
        bounds, age_ms = self._world.config.bounds, self._age_ms(run)
        old = is_too_old(age_ms, bounds.recovery_max_age_s) and run.replying is None
        if old and not is_stale(run, self._world.clock.steady_ms()):
            why = f"found at start, {age_ms // 1000} s after its trigger"
            self._recorder.record(run, Parked(why, Cause.OLD))
        elif crashed is None:
            self._readmit(run)
        elif (
            run.has_begun and run.attempts >= bounds.max_attempts and not _is_harmless(run, crashed)
        ):
            return False
        else:
            self._begin_again(run)
        return True

    async def _set_aside(self, run: Run, dead: Dead, error: Exception | None = None) -> None:
        """Set aside a run, and the runs that it has begun: no other run handles them."""
        self._world.telemetry.problem(
            "run_set_aside", run=run.id, reason=dead.reason, exc_info=error
        )
        for child in [each for each in self._runs if self._runs.parent(each) is run]:
            why = f"run {run.id}, which it belongs to, is set aside"
            await self._set_aside(child, Dead(Cause.PARENT.text, why))
        self._queue.release_permits(run)
        await self._recorder.settle(run, dead)

    def _age_ms(self, run: Run) -> int:
        """How long ago it was last due: at its trigger, or at the end of a WAIT.

        A run does not become old while it waits as its flow says, or for a run that it has begun.
        """
        clock = self._world.clock
        age_ms = clock.steady_ms() - run.steady_ms
        if run.last_wait is not None:
            age_ms = min(age_ms, past_ms(run.last_wait.until, clock.moment()))
        for child in self._runs.children(run):
            age_ms = min(age_ms, self._age_ms(child))
        return age_ms

    async def _end(self, run: Run) -> None:
        """Set aside a run that was in flight at too many crashes; its sender is told first."""
        if run.placement in OFFERED:
            self._park_offered(run)
            return
        why = f"it was running {run.attempts} times when the Runtime Manager ended"
        await self._lifecycle.executor.set_aside_children(run)  # one of them may be the cause
        if run.reply_topic is None:
            await self._recorder.settle(run, Dead(Cause.ATTEMPTS.text, why))
        else:
            await self._recorder.record_durably(run, Replying(State.DEAD, why, Cause.ATTEMPTS))
            self._begin_again(run)

    def _begin_again(self, run: Run) -> None:
        """Queue it again, and count the attempt; no other last attempt is in flight beside it."""
        self._lifecycle.attempts.expect(run)
        last = is_last_attempt(run.attempts + 1, self._world.config.bounds.max_attempts)
        self._readmit(run, alone=last)

    def _park_offered(self, run: Run) -> None:
        """Park a run that another node may have: it must not end here before that is known."""
        why = (
            f"it was offered to node {run.node}, whose answer is not known,"
            f" and was in flight {run.attempts} times when the Runtime Manager ended"
        )
        self._world.telemetry.problem("offer_in_doubt", run=run.id, reason=why)
        self._recorder.record(run, Parked(why, Cause.ATTEMPTS))

    def _readmit(self, run: Run, *, alone: bool = False) -> None:
        """Queue a run again when the permits are free that it and the runs within it held (LIMIT).

        Others may hold them, if it was parked or comes from another process that has ended.
        """
        self._queue.permits.resume_when_available(run, partial(self._enqueue, run, alone=alone))

    def _enqueue(self, run: Run, *, alone: bool) -> None:
        if run.state is State.PARKED:
            self._recorder.record(run, Released())
        self._queue.permits.retake_for_children(run)
        self._queue.readmit(run, alone=alone)

    def release(self) -> int:
        """Resume all parked runs. Returns how many.

        One that held a permit stays parked until the permit is free.
        """
        chosen = [run for run in self._runs if run.state is State.PARKED]
        for run in chosen:
            self._readmit(run)
        return len(chosen)


def _is_harmless(run: Run, crashed: WaitingCheck) -> bool:
    """Whether the rest of it cannot end the process: a reply, or a wait."""
    return run.replying is not None or crashed.is_only_waiting(run)
