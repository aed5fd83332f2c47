"""A node: the engine and its ways in, started, reconfigured, drained and stopped in order.

new ──start──> serving ──drain──> draining ──> stopped
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence

from fractal_rm import RELEASED_MS
from fractal_rm.config.model import Config
from fractal_rm.domain.journal_errors import HistoryDamaged
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.run import Outcome
from fractal_rm.domain.state import State
from fractal_rm.domain.steady import LOGGED_FROM_MS, wall_clock_fault
from fractal_rm.domain.trigger import Arrival
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.ports import AcceptedTrigger, Adopted, Intake, ReadinessCheck, WayIn
from fractal_rm.engine.recover import Recovery
from fractal_rm.engine.unhandled_runs import UnhandledRuns

MakeWayIn = Callable[[Config, Intake], WayIn]


class Node:
    """Implements `Intake`. ``ways_in`` are named as the sections of comm.conf that they read.

    One that reads none has a name of its own, and follows changes while it is open.
    """

    def __init__(self, world: Dependencies, ways_in: Mapping[str, MakeWayIn]) -> None:
        self._world = world
        self._make = ways_in
        self._ways_in: dict[str, WayIn] = {}
        self.lifecycle = Lifecycle(world)
        self._recovery = Recovery(world, self.lifecycle)
        self._inventory = UnhandledRuns(self.lifecycle.runs, self.lifecycle.queue, world.telemetry)
        self._paused = False
        self._serving = False
        self._blocked_by: str | None = None
        self._damage: str | None = None

    @property
    def unfinished(self) -> int:
        """How many runs have not ended."""
        return len(self.lifecycle.runs)

    # --- start, drain, stop -------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal, queue the runs that it holds, then open the ways in.

        Raises JournalError, and whatever a way in raises that can never start.
        """
        found = await self._world.journal.open()
        self._world.take(self._world.config)
        self._world.ids.continue_after(found.newest)
        self._world.clock.continue_after(found.latest_ms)
        self._doubt_clock()
        await self.watch_clock()
        self.lifecycle.start()
        await self._recovery.recover(found)
        self._serving = True
        self._open_or_close_queue()
        for name, way_in in self._made(self._make, self._world.config).items():
            await self._open(name, way_in)
        self._world.telemetry.event("ready", found=len(found.runs), after_crash=not found.clean)

    async def drain(self) -> None:
        """Accept no more triggers, finish what is in flight within the drain time, stop.

        Runs that have not ended by then stay in the journal for the next start.
        """
        if not self._serving:
            return
        self._serving = False
        self.lifecycle.acceptance.closed = True
        self._open_or_close_queue()
        try:
            await asyncio.wait_for(
                self.lifecycle.queue.slots.wait_until_idle(), self._world.config.bounds.drain_s
            )
        except asyncio.TimeoutError:
            self._world.telemetry.problem("drain_ended_early", unfinished=len(self.lifecycle.runs))
        # Last, so that REST clients that wait for an outcome get it, or an answer without one.
        self.lifecycle.outcomes.release_all()
        for name in list(self._ways_in):
            await self._ways_in.pop(name).stop()
        await self.lifecycle.stop()
        await self._world.journal.close(clean=True)
        self._log_unwritten_end()
        await self._world.components.close()

    def kill(self) -> None:
        """End at once, as if the process was killed: wait for nothing and write nothing."""
        self._serving = False
        self.lifecycle.kill()

    def _log_unwritten_end(self) -> None:
        blocked = self._world.journal.blocked
        if blocked is not None:
            note = "this end counts as a crash: the next start goes on from what is on the disk"
            self._world.telemetry.problem("end_not_written", why=blocked.why, note=note)

    # --- changes while it runs ----------------------------------------------------------------

    async def reconfigure(self, config: Config) -> None:
        """Put a new configuration in force. A way in is opened again if its section has changed.

        Runs keep the flow that they began with. Raises what a way in raises that cannot be opened:
        the configuration from before is in force then.
        """
        before = self._world.config
        changed = [
            name
            for name in self._make
            if name not in self._ways_in
            or getattr(before, name, None) != getattr(config, name, None)
        ]
        ways_in = self._made(changed, config)  # all, before one that serves is stopped for them
        try:
            await self._take(config, ways_in)
        except Exception:
            gone = [name for name in changed if self._ways_in.get(name) in (None, ways_in[name])]
            await self._take(before, self._made(gone, before))
            raise

    async def _take(self, config: Config, ways_in: Mapping[str, WayIn]) -> None:
        self._world.take(config)
        self.lifecycle.queue.reconfigure(self._world.limits(), config.flows)
        for name, way_in in ways_in.items():
            await self._open(name, way_in)
        for name, way_in in self._ways_in.items():
            if name not in ways_in:
                way_in.reconfigured()

    def pause(self, paused: bool) -> None:
        """Pause or resume. While paused, triggers are accepted up to the bounds; no run begins."""
        if paused != self._paused:
            self._world.telemetry.event("paused" if paused else "resumed")
        self._paused = paused
        self._open_or_close_queue()

    def release_parked(self) -> int:
        """Resume parked runs. Returns how many."""
        return self._recovery.release()

    async def adopt(self) -> list[Adopted]:
        """Take over the open runs of processes that have ended. Called every few seconds.

        Returns one entry for each journal that was found. Raises JournalError.
        """
        if not self._serving:
            return []
        adopted = await self._world.journal.adopt()
        for each in adopted:
            if each.moved.runs:
                self._world.telemetry.event(
                    "runs_adopted", journal=each.journal, runs=len(each.moved.runs)
                )
            if self._serving:  # else they are for the next start
                await self._recovery.recover(each.moved)
            if each.why:
                self._world.telemetry.problem(
                    "runs_left", journal=each.journal, runs=len(each.remaining), why=each.why
                )
        return adopted

    def find_unhandled_runs(self) -> frozenset[str]:
        """Look for open runs that nothing handles; returns their ids. Called every few seconds."""
        if self._serving:
            self._inventory.update()
        return self._inventory.unhandled

    def watch_journal(self) -> None:
        """Let no run begin while facts cannot be written."""
        self._world.journal.check()
        blocked = self._world.journal.blocked
        code = blocked and blocked.code
        if code != self._blocked_by:
            self._blocked_by = code
            if blocked is None:
                self._world.telemetry.event("journal_writable_again")
            else:
                self._world.telemetry.problem(
                    blocked.code.replace("-", "_"), why=blocked.why, cure=blocked.cure
                )
        damage = self._world.journal.damage
        if damage is not None and self._damage is None:
            self._world.telemetry.problem("history_damaged", what=damage, cure=HistoryDamaged.cure)
        self._damage = damage
        self._open_or_close_queue()

    async def watch_clock(self) -> None:
        """Follow changes of the clocks, and ring alarms that were due while the machine slept."""
        look = self._world.clock.detect_changes()
        tell = self._world.telemetry
        if look.slept_ms >= LOGGED_FROM_MS:
            tell.event("suspended", for_s=round(look.slept_ms / 1000, 3))
        if abs(look.set_by_ms) >= LOGGED_FROM_MS:
            tell.problem("wall_clock_set", by_s=round(look.set_by_ms / 1000, 3))
            self._doubt_clock()
        self._world.timers.fire_due()
        await self._world.clock.save()

    def _doubt_clock(self) -> None:
        why = wall_clock_fault(self._world.clock.read(), RELEASED_MS)
        if why is not None:
            self._world.telemetry.problem("wall_clock_doubtful", why=why, cure="set it, or use NTP")

    def _open_or_close_queue(self) -> None:
        queue = self.lifecycle.queue
        if self._serving and not self._paused and self._world.journal.blocked is None:
            queue.open()
        else:
            queue.close()

    def _made(self, names: Iterable[str], config: Config) -> dict[str, WayIn]:
        return {name: self._make[name](config, self) for name in names}

    async def _open(self, name: str, way_in: WayIn) -> None:
        """Open a way in, in place of the one that is open, if there is one."""
        before = self._ways_in.get(name)
        if before is not None and not way_in.takes_over:
            await self._ways_in.pop(name).stop()
            before = None
        await way_in.start(before)
        self._ways_in[name] = way_in

    # --- the intake ---------------------------------------------------------------------------

    async def receive(self, arrival: Arrival) -> AcceptedTrigger:
        """Accept a trigger; it is durable when this returns. Raises Refused."""
        [answer] = await self.lifecycle.accept((arrival,))
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def receive_all(self, arrivals: Sequence[Arrival]) -> list[AcceptedTrigger | Refused]:
        """Accept triggers that came together; a refusal stands in the place of its arrival."""
        return await self.lifecycle.accept(arrivals)

    async def set_aside(self, arrival: Arrival, refusal: Refused) -> None:
        """Keep a refused message as a dead letter."""
        await self.lifecycle.acceptance.set_aside(arrival, refusal)
        self._world.telemetry.problem(
            "dead_letter", source=arrival.source.text, code=refusal.code, reason=refusal.reason
        )

    async def wait_for_room(self) -> None:
        """Return when a refused trigger may be tried again."""
        await self.lifecycle.queue.capacity.wait_for_room()

    async def outcome(self, run_id: str, timeout_s: float) -> Outcome | None:
        """How a run ends, or ended lately; None if it has not ended in time or is not known."""
        return await self.lifecycle.outcomes.wait(run_id, timeout_s)

    def state_of(self, run_id: str) -> State | None:
        """Where an open run stands."""
        run = self.lifecycle.runs.get(run_id)
        return run.state if run else None

    def readiness(self) -> list[ReadinessCheck]:
        """Everything that must hold before triggers can be taken."""
        blocked = self._world.journal.blocked
        capacity = self.lifecycle.queue.capacity
        load, limits = capacity.load, capacity.limits
        return [
            ReadinessCheck("serving", self._serving, "serving" if self._serving else "stopping"),
            ReadinessCheck("journal", blocked is None, blocked.why if blocked else "writable"),
            ReadinessCheck(
                "room",
                load.waiting < limits.waiting and load.payload_bytes < limits.memory_bytes,
                f"{load.in_flight} runs in flight, {load.waiting} waiting{self._held_up()}"
                + (", paused" if self._paused else ""),
            ),
            # Both are shown, and triggers can be accepted all the same.
            ReadinessCheck(
                "history", ok=True, text=self._world.journal.damage or "no damage was found"
            ),
            ReadinessCheck(
                "clock",
                ok=True,
                text=wall_clock_fault(self._world.clock.read(), RELEASED_MS) or "plausible",
            ),
            self._inventory.check(),
            *map(self._status, self._make),
        ]

    def _held_up(self) -> str:
        """How many runs wait because of LIMIT, for the flows with the most."""
        flows = self.lifecycle.queue.held_up().most_common(3)
        return "".join(f", {count} for LIMIT of flow {flow}" for flow, count in flows)

    def _status(self, name: str) -> ReadinessCheck:
        way_in = self._ways_in.get(name)
        return way_in.status() if way_in else ReadinessCheck(name, ok=False, text="not open")
