"""A node: the engine and its ways in, started, reconfigured, drained and stopped in order.

new ──start──> serving ──drain──> draining ──> stopped
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping

from fractal_rm import MADE_MS
from fractal_rm.config.model import Config
from fractal_rm.domain.journal_errors import HistoryDamaged
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.run import Outcome
from fractal_rm.domain.state import State
from fractal_rm.domain.steady import WORTH_A_LINE_MS, doubt
from fractal_rm.domain.trigger import Arrival
from fractal_rm.engine.inventory import Inventory
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.ports import Adopted, Check, Intake, WayIn
from fractal_rm.engine.recover import Recovery
from fractal_rm.engine.world import World

MakeWayIn = Callable[[Config, Intake], WayIn]


class Node:
    """Implements `Intake`. ``ways_in`` are named as the sections of comm.conf that they read.

    One that reads none has a name of its own, and follows changes while it is open.
    """

    def __init__(self, world: World, ways_in: Mapping[str, MakeWayIn]) -> None:
        self._world = world
        self._make = ways_in
        self._ways_in: dict[str, WayIn] = {}
        self._lifecycle = Lifecycle(world)
        self._recovery = Recovery(world, self._lifecycle)
        self._inventory = Inventory(self._lifecycle.runs, self._lifecycle.room, world.telemetry)
        self._paused = False
        self._serving = False
        self._blocked_by: str | None = None
        self._damage: str | None = None
        self.receive = self._lifecycle.admit.receive
        self.receive_all = self._lifecycle.admit.receive_all

    @property
    def unfinished(self) -> int:
        """How many runs have no end yet."""
        return len(self._lifecycle.runs)

    # --- start, drain, stop -------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal, put what it holds back in line, then open the ways in.

        Raises JournalError, and what a way in raises where it can never start.
        """
        found = await self._world.journal.open()
        self._world.take(self._world.config)
        self._world.ids.go_on_after(found.newest)
        self._world.clock.go_on_after(found.latest_ms)
        self._doubt_clock()
        await self.watch_clock()
        await self._recovery.recover(found)
        self._serving = True
        self._regulate()
        for name, way_in in self._made(self._make, self._world.config).items():
            await self._open(name, way_in)
        self._world.telemetry.event("ready", found=len(found.runs), after_crash=not found.clean)

    async def drain(self) -> None:
        """Take no more, finish what is in flight within the drain time, stop (G6).

        What is not finished by then, or waits in line, stays in the journal for the next start.
        """
        if not self._serving:
            return
        self._serving = False
        self._lifecycle.admit.closed = True
        self._regulate()
        try:
            await asyncio.wait_for(
                self._lifecycle.room.wait_until_idle(), self._world.config.bounds.drain_s
            )
        except asyncio.TimeoutError:
            self._world.telemetry.problem("drain_ended_early", unfinished=len(self._lifecycle.runs))
        # Last, so that whoever waits over REST for an outcome still gets it, or hears of none.
        self._lifecycle.runs.let_go()
        for name in list(self._ways_in):
            await self._ways_in.pop(name).stop()
        await self._lifecycle.room.cancel()
        await self._world.journal.close(clean=True)
        self._say_left_unwritten()
        await self._world.components.close()

    def _say_left_unwritten(self) -> None:
        blocked = self._world.journal.blocked
        if blocked is not None:
            note = "this end counts as a crash: the next start goes on from what is on the disk"
            self._world.telemetry.problem("end_not_written", why=blocked.why, note=note)

    # --- changes while it runs ----------------------------------------------------------------

    async def reconfigure(self, config: Config) -> None:
        """Take a new configuration whole (G13). A way in is opened anew where its section differs.

        Runs keep the flow that they began with. Raises whatever keeps a way in from being opened
        so: the node is then as it was before.
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
        self._lifecycle.room.reconfigured(self._world.limits(), config.flows)
        for name, way_in in ways_in.items():
            await self._open(name, way_in)
        for name, way_in in self._ways_in.items():
            if name not in ways_in:
                way_in.reconfigured()

    def pause(self, paused: bool) -> None:
        """Begin no further run, or go on. Triggers are taken all the same, up to the bounds."""
        if paused != self._paused:
            self._world.telemetry.event("paused" if paused else "resumed")
        self._paused = paused
        self._regulate()

    def release_parked(self) -> int:
        """Let parked runs go on. Returns how many."""
        return self._recovery.release()

    async def adopt(self) -> list[Adopted]:
        """Take up the open runs of processes that have ended. Called every few seconds.

        Returns what came of each journal that was found. Raises JournalError.
        """
        if not self._serving:
            return []
        adopted = await self._world.journal.adopt()
        for each in adopted:
            if each.found.runs:
                self._world.telemetry.event(
                    "runs_adopted", journal=each.journal, runs=len(each.found.runs)
                )
            if self._serving:  # else they are for the next start
                await self._recovery.recover(each.found)
            if each.why:
                self._world.telemetry.problem(
                    "runs_left", journal=each.journal, runs=len(each.left), why=each.why
                )
        return adopted

    def take_stock(self) -> frozenset[str]:
        """Look for open runs that nobody carries; returns their ids. Called every few seconds."""
        if self._serving:
            self._inventory.look()
        return self._inventory.uncarried

    def watch_journal(self) -> None:
        """Hold runs back while their facts could not be written (G7)."""
        self._world.journal.look()
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
        self._regulate()

    async def watch_clock(self) -> None:
        """Follow what was done to the clocks, and do what was due while the machine slept."""
        look = self._world.clock.look()
        tell = self._world.telemetry
        if look.slept_ms >= WORTH_A_LINE_MS:
            tell.event("suspended", for_s=round(look.slept_ms / 1000, 3))
        if abs(look.set_by_ms) >= WORTH_A_LINE_MS:
            tell.problem("wall_clock_set", by_s=round(look.set_by_ms / 1000, 3))
            self._doubt_clock()
        self._world.alarms.look()
        await self._world.clock.keep()

    def _doubt_clock(self) -> None:
        why = doubt(self._world.clock.read(), MADE_MS)
        if why is not None:
            self._world.telemetry.problem("wall_clock_doubtful", why=why, cure="set it, or use NTP")

    def _regulate(self) -> None:
        room = self._lifecycle.room
        if self._serving and not self._paused and self._world.journal.blocked is None:
            room.open(self._lifecycle.carry)
        else:
            room.close()

    def _made(self, names: Iterable[str], config: Config) -> dict[str, WayIn]:
        return {name: self._make[name](config, self) for name in names}

    async def _open(self, name: str, way_in: WayIn) -> None:
        """In the place of the one that is open, if there is one."""
        before = self._ways_in.get(name)
        if before is not None and not way_in.takes_over:
            await self._ways_in.pop(name).stop()
            before = None
        await way_in.start(before)
        self._ways_in[name] = way_in

    # --- the intake ---------------------------------------------------------------------------

    async def set_aside(self, arrival: Arrival, refusal: Refused) -> None:
        """Keep a refused message as a dead letter."""
        await self._lifecycle.admit.set_aside(arrival, refusal)
        self._world.telemetry.problem(
            "dead_letter", source=arrival.source.text, code=refusal.code, reason=refusal.reason
        )

    async def wait_for_room(self) -> None:
        """Return when a refused trigger may be tried again."""
        await self._lifecycle.room.wait_for_room()

    async def outcome(self, run_id: str, timeout_s: float) -> Outcome | None:
        """How an open run ends, or None if it has not by then."""
        return await self._lifecycle.runs.outcome(run_id, timeout_s)

    def state_of(self, run_id: str) -> State | None:
        """Where an open run stands."""
        run = self._lifecycle.runs.get(run_id)
        return run.state if run else None

    def readiness(self) -> list[Check]:
        """Everything that must hold before triggers can be taken."""
        blocked = self._world.journal.blocked
        load, limits = self._lifecycle.room.load, self._lifecycle.room.limits
        return [
            Check("serving", self._serving, "serving" if self._serving else "stopping"),
            Check("journal", blocked is None, blocked.why if blocked else "writable"),
            Check(
                "room",
                load.waiting < limits.waiting and load.held_bytes < limits.held_bytes,
                f"{load.in_flight} runs in flight, {load.waiting} waiting{self._held_up()}"
                + (", paused" if self._paused else ""),
            ),
            # Both are said, and triggers can be taken all the same.
            Check("history", ok=True, text=self._world.journal.damage or "no damage was found"),
            Check("clock", ok=True, text=doubt(self._world.clock.read(), MADE_MS) or "plausible"),
            self._inventory.check(),
            *map(self._status, self._make),
        ]

    def _held_up(self) -> str:
        """What LIMIT has to do with it, for the flows that hold up the most."""
        flows = self._lifecycle.room.held_up().most_common(3)
        return "".join(f", {count} for LIMIT of flow {flow}" for flow, count in flows)

    def _status(self, name: str) -> Check:
        way_in = self._ways_in.get(name)
        return way_in.status() if way_in else Check(name, ok=False, text="not open")
