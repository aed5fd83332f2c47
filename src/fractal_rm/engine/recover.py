"""Recover: what becomes of the runs that the journal holds without an end, at start.

Whatever is wrong with one of them sets that one aside, and the start goes on with the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from fractal_rm.domain.admission import is_last_attempt, too_old, waits_in_vain
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Dead, Parked, Released, Replying, fault
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.moment import past_ms
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE, OFFERED, State
from fractal_rm.engine.execute.waits import Waits
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.places import Places
from fractal_rm.engine.ports import Recovered
from fractal_rm.engine.world import World


class Recovery:
    """Puts found runs back in line, oldest first; parks what is old, sets aside what kills."""

    def __init__(self, world: World, lifecycle: Lifecycle) -> None:
        self._world = world
        self._lifecycle = lifecycle
        self._runs = lifecycle.runs
        self._room = lifecycle.room

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
                if not self._goes_on(run, crashed):
                    await self._end(run)
            except JournalError:  # noqa: PERF203 - each by itself: the others are not at fault
                raise
            except Exception as error:  # noqa: BLE001
                await self._set_aside(run, fault(error), error)

    def _at_the_crash(self, runs: Iterable[Run]) -> Waits:
        """Who only waited then: by the places that all had, as not all have theirs again yet."""
        places = Places(self._runs, self._world.config.flows)
        for run in runs:
            if run.state is State.PARKED or self._runs.parent(run) is not None:
                continue
            if run.placement is HERE:
                places.away[run.flow.id] += 1
            places.readmit_within(run)
        return Waits(self._runs, places, self._world.clock)

    def _goes_on(self, run: Run, crashed: Waits | None) -> bool:
        """Put it back in line, or park it. False: it may be what ends the process (G12)."""
        if run.state.final or run.state is State.PARKED or self._runs.parent(run) is not None:
            return True  # a person lets it go on, or it ends with the run that has begun it
        bounds, age_ms = self._world.config.bounds, self._age_ms(run)
        old = too_old(age_ms, bounds.recovery_max_age_s) and run.replying is None
        if old and not waits_in_vain(run, self._world.clock.steady_ms()):
            why = f"found at start, {age_ms // 1000} s after its trigger"
            _ = self._runs.write(run, Parked(why, Cause.OLD))
        elif crashed is None:
            self._readmit(run)
        elif run.begun and run.attempts >= bounds.max_attempts and not _is_harmless(run, crashed):
            return False
        else:
            self._begin_again(run)
        return True

    async def _set_aside(self, run: Run, dead: Dead, error: Exception | None = None) -> None:
        """And the runs that it has begun: nobody else carries them."""
        self._world.telemetry.problem(
            "run_set_aside", run=run.id, reason=dead.reason, exc_info=error
        )
        for child in [each for each in self._runs if self._runs.parent(each) is run]:
            why = f"run {run.id}, which it belongs to, is set aside"
            await self._set_aside(child, Dead(Cause.PARENT.text, why))
        self._room.share_places(run)
        await self._runs.close(run, dead)

    def _age_ms(self, run: Run) -> int:
        """How long ago its flow last asked for it: by its trigger, or at the end of a WAIT.

        A run that waited as it was told to is not old for that, and neither is one that waits for
        another.
        """
        clock = self._world.clock
        age_ms = clock.steady_ms() - run.steady_ms
        if run.waiting is not None:
            age_ms = min(age_ms, past_ms(run.waiting.until, clock.moment()))
        for child in self._runs.children(run):
            age_ms = min(age_ms, self._age_ms(child))
        return age_ms

    async def _end(self, run: Run) -> None:
        """The process ended each time that it was running; its sender is told first."""
        if run.placement in OFFERED:
            self._park_offered(run)
            return
        why = f"it was running {run.attempts} times when the Runtime Manager ended"
        await self._lifecycle.set_aside_children(run)  # one of them may be the cause
        if run.reply_topic is None:
            await self._runs.close(run, Dead(Cause.ATTEMPTS.text, why))
        else:
            await self._runs.write(run, Replying(State.DEAD, why, Cause.ATTEMPTS))
            self._begin_again(run)

    def _begin_again(self, run: Run) -> None:
        """Back in line; in its last attempt nothing runs beside it."""
        self._lifecycle.interrupted.add(run.id)
        last = is_last_attempt(run.attempts + 1, self._world.config.bounds.max_attempts)
        self._readmit(run, alone=last)

    def _park_offered(self, run: Run) -> None:
        """Another node may have it: it must not end here before that is known (G4)."""
        why = (
            f"it was offered to node {run.node}, whose answer is not known,"
            f" and was in flight {run.attempts} times when the Runtime Manager ended"
        )
        self._world.telemetry.problem("offer_in_doubt", run=run.id, reason=why)
        _ = self._runs.write(run, Parked(why, Cause.ATTEMPTS))

    def _readmit(self, run: Run, *, alone: bool = False) -> None:
        """Put a run back in line when the places are free that it had, and runs within it (LIMIT).

        Others have them where it was parked, or comes from a process that has ended beside this.
        """
        self._room.places.want_again(run, partial(self._stand_in_line, run, alone=alone))

    def _stand_in_line(self, run: Run, *, alone: bool) -> None:
        if run.state is State.PARKED:
            _ = self._runs.write(run, Released())
        self._room.places.readmit_within(run)
        self._room.readmit(run, alone=alone)

    def release(self) -> int:
        """Let parked runs go on: all, as runs are parked at a start only. Returns how many.

        One that had a place stays parked until it is free.
        """
        chosen = [run for run in self._runs if run.state is State.PARKED]
        for run in chosen:
            self._readmit(run)
        return len(chosen)


def _is_harmless(run: Run, crashed: Waits) -> bool:
    """What is left of it kills nothing, or its time has not come."""
    return run.replying is not None or crashed.only_waits(run)
