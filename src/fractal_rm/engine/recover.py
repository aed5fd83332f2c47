"""Recover: what becomes of the runs that the journal holds without an end, at start.

Whatever is wrong with one of them sets that one aside, and the start goes on with the others.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from fractal_rm.domain.admission import is_last_attempt, too_old, waits_in_vain
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.errors import JournalError
from fractal_rm.domain.facts import Dead, Parked, Released, Replying, fault
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
            await self._take_up(run, crashed)

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

    async def _take_up(self, run: Run, crashed: Waits | None) -> None:
        try:
            await self._decide(run, crashed)
        except JournalError:
            raise
        except Exception as error:  # noqa: BLE001 - the other runs are not at fault
            await self._set_aside(run, fault(error), error)

    async def _decide(self, run: Run, crashed: Waits | None) -> None:
        if run.state.final or run.state is State.PARKED or self._runs.parent(run) is not None:
            return  # a person lets it go on, or it ends with the run that has begun it
        bounds, age_ms = self._world.config.bounds, self._age_ms(run)
        old = too_old(age_ms, bounds.recovery_max_age_s)
        stale = waits_in_vain(run, self._world.clock.steady_ms())
        if old and run.replying is None and not stale:
            why = f"found at start, {age_ms // 1000} s after its trigger"
            _ = self._runs.write(run, Parked(why, Cause.OLD))
        elif crashed is None:
            self._readmit(run)
        else:
            await self._after_crash(run, bounds.max_attempts, crashed)

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
        ages_ms = [clock.steady_ms() - run.steady_ms]
        if run.waiting is not None:
            ages_ms.append(past_ms(run.waiting.until, clock.moment()))
        ages_ms += [self._age_ms(child) for child in self._runs.children(run)]
        return min(ages_ms)

    async def _after_crash(self, run: Run, max_attempts: int, crashed: Waits) -> None:
        """The process ended with this run in flight or in line: it may be the cause (G12)."""
        # What is left of it kills nothing, or its time has not come.
        harmless = run.replying is not None or crashed.only_waits(run)
        if run.begun and run.attempts >= max_attempts and not harmless:
            if run.placement in OFFERED:
                self._park_offered(run)
                return
            why = f"it was running {run.attempts} times when the Runtime Manager ended"
            await self._lifecycle.set_aside_children(run)  # one of them may be the cause
            if run.reply_topic is None:
                await self._runs.close(run, Dead(Cause.ATTEMPTS.text, why))
                return
            # Its sender is told first.
            await self._runs.write(run, Replying(State.DEAD, why, Cause.ATTEMPTS))
        self._lifecycle.interrupted.add(run.id)
        self._readmit(run, alone=is_last_attempt(run.attempts + 1, max_attempts))

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
