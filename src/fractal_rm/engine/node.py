"""A node: starts, reconfigures, drains and stops the engine together with its ways in.

A way in is a service that receives triggers, such as MQTT, REST or schedules.

new ──start──> serving ──drain──> draining ──> stopped
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from fractal_rm import __version__
from fractal_rm.config.model import Config
from fractal_rm.domain.actions import ActionDone, ActionRequest
from fractal_rm.domain.flow_pause import FlowPause
from fractal_rm.domain.handoff.sender import Decision
from fractal_rm.domain.late_import import late_import
from fractal_rm.domain.node_description import KIND, PROTOCOL, NodeDescription
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.run import Outcome
from fractal_rm.domain.state import OFFERED, State
from fractal_rm.domain.trigger import Arrival
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.lifecycle import Lifecycle
from fractal_rm.engine.ports import AcceptedTrigger, Adopted, Intake, ReadinessCheck, WayIn
from fractal_rm.engine.readiness import readiness_checks
from fractal_rm.engine.recover import Recovery
from fractal_rm.engine.status import StatusReader
from fractal_rm.engine.unhandled_runs import UnhandledRuns
from fractal_rm.engine.watch import Watch

if TYPE_CHECKING:
    from fractal_rm.engine.actions import NodeActions

MakeWayIn = Callable[[Config, Intake], WayIn]


class Node:
    """The engine of this process and its ways in. Implements `Intake`.

    ``ways_in`` has one function for each way in; the function makes the way in. Its key is the
    name of the section of comm.conf that the way in reads. If the way in reads no section, the key
    is another name, and the way in is not opened again when the configuration changes.
    """

    def __init__(self, dependencies: Dependencies, ways_in: Mapping[str, MakeWayIn]) -> None:
        self._dependencies = dependencies
        self._makers = ways_in
        self._ways_in: dict[str, WayIn] = {}
        self.lifecycle = Lifecycle(dependencies)
        self._recovery = Recovery(dependencies, self.lifecycle)
        self._actions: NodeActions | None = None
        self._unhandled_runs = UnhandledRuns(
            self.lifecycle.runs, self.lifecycle.queue, dependencies.telemetry
        )
        self._serving = False
        self._watch = Watch(dependencies)
        self._statuses = StatusReader(dependencies, self.lifecycle)

    @property
    def unfinished(self) -> int:
        """The number of runs that have not ended."""
        return len(self.lifecycle.runs)

    # --- start, drain, stop -------------------------------------------------------------------

    async def start(self) -> None:
        """Open the journal, queue its unfinished runs, then open the ways in.

        Raises JournalError, or the error of a way in that can never start.
        """
        recovered = await self._dependencies.journal.open()
        self._dependencies.apply_config(self._dependencies.config)
        self._dependencies.ids.continue_after(recovered.newest_run_id)
        self._dependencies.clock.continue_after(recovered.latest_ms)
        self._watch.warn_of_clock()
        await self.watch_clock()
        self.lifecycle.start(recovered)
        await self._recovery.recover(recovered)
        self._serving = True
        self._open_or_close_queue()
        for name, way_in in self._make_ways_in(self._makers, self._dependencies.config).items():
            await self._open(name, way_in)
        self._dependencies.telemetry.event(
            "ready", found=len(recovered.runs), after_crash=not recovered.clean
        )

    async def drain(self) -> None:
        """Refuse new triggers, wait at most the drain time for the runs in flight, and stop.

        Runs that have not ended by then stay in the journal for the next start.
        """
        if not self._serving:
            return
        self._serving = False
        self.lifecycle.condition.stopping = True
        self._open_or_close_queue()
        try:
            await asyncio.wait_for(
                self.lifecycle.queue.slots.wait_until_idle(),
                self._dependencies.config.bounds.drain_s,
            )
        except asyncio.TimeoutError:
            self._dependencies.telemetry.problem(
                "drain_ended_early", unfinished=len(self.lifecycle.runs)
            )
        # REST clients whose runs have ended have got the outcome by now; the others stop waiting.
        self.lifecycle.outcomes.release_all()
        for name in list(self._ways_in):
            await self._ways_in.pop(name).stop()
        await self.lifecycle.stop()
        await self._dependencies.journal.close(clean=True)
        self._log_unwritten_end()
        await self._dependencies.components.close()

    def kill(self) -> None:
        """Stop as if the process was killed: wait for nothing and write nothing."""
        self._serving = False
        self.lifecycle.kill()

    def _log_unwritten_end(self) -> None:
        blocked = self._dependencies.journal.blocked
        if blocked is not None:
            note = "this end counts as a crash: the next start continues from what is on the disk"
            self._dependencies.telemetry.problem("end_not_written", why=blocked.why, note=note)

    # --- while the node serves ----------------------------------------------------------------

    async def reconfigure(self, config: Config) -> None:
        """Apply a new configuration. A way in is opened again if its section has changed.

        Runs keep the flow that they began with. If a way in cannot be opened, the previous
        configuration is restored, and the error is raised.
        """
        previous = self._dependencies.config
        changed = [
            name
            for name in self._makers
            if name not in self._ways_in
            or getattr(previous, name, None) != getattr(config, name, None)
        ]
        # Make all ways in before any open way in is stopped: making them may fail.
        ways_in = self._make_ways_in(changed, config)
        try:
            await self._apply(config, ways_in)
        except Exception:
            to_reopen = [
                name for name in changed if self._ways_in.get(name) in (None, ways_in[name])
            ]
            await self._apply(previous, self._make_ways_in(to_reopen, previous))
            raise

    async def _apply(self, config: Config, ways_in: Mapping[str, WayIn]) -> None:
        self._dependencies.apply_config(config)
        self.lifecycle.reconfigure(config)
        for name, way_in in ways_in.items():
            await self._open(name, way_in)
        for name, way_in in self._ways_in.items():
            if name not in ways_in:
                way_in.reconfigured()

    def pause(self, paused: bool) -> None:
        """Pause or resume. A paused node accepts triggers up to its bounds, but begins no run."""
        condition = self.lifecycle.condition
        if paused != condition.paused:
            self._dependencies.telemetry.event("paused" if paused else "resumed")
        condition.paused = paused
        self._open_or_close_queue()

    def pause_flows(self, pauses: Mapping[str, FlowPause]) -> None:
        """Let no run of these flows begin, and end all other pauses of flows; see `Intake`."""
        condition = self.lifecycle.condition
        if pauses == condition.paused_flows:
            return
        telemetry, before = self._dependencies.telemetry, condition.paused_flows
        for flow in pauses.keys() - before.keys():
            telemetry.event("flow_paused", flow=flow, by=pauses[flow].actor)
        for flow in before.keys() - pauses.keys():
            telemetry.event("flow_resumed", flow=flow)
        condition.paused_flows = pauses
        self.lifecycle.queue.pause_flows(frozenset(pauses))

    async def act(self, request: ActionRequest) -> ActionDone:
        """Do an action on a run of this process; see `Intake`."""
        actions = self._actions
        if actions is None:
            make: type[NodeActions] = late_import("fractal_rm.engine.actions").NodeActions
            actions = make(self._dependencies, self.lifecycle, self._recovery)
            self._actions = actions
        return await actions.act(request)

    def set_draining(self, draining: bool) -> None:
        """Drain the node, or end that; see `Intake.set_draining`."""
        condition = self.lifecycle.condition
        if draining != condition.draining:
            self._dependencies.telemetry.event("draining" if draining else "drain_ended")
        condition.draining = draining

    def resolve(self, run_id: str, decision: Decision, actor: str) -> bool:
        """Decide a run that another node may have; see `Intake.resolve`."""
        run = self.lifecycle.runs.get(run_id)
        if run is None or run.placement not in OFFERED:
            return False
        self.lifecycle.hand_off.decide(run, decision, actor)
        if run.state is State.PARKED:
            self._recovery.release(run)
        else:
            self.lifecycle.queue.deferred.recall(run_id)
        return True

    def describe(self) -> NodeDescription:
        """What this node says about itself to other machines."""
        dependencies, condition = self._dependencies, self.lifecycle.condition
        load = self.lifecycle.queue.capacity.load
        return NodeDescription(
            KIND,
            __version__,
            PROTOCOL,
            dependencies.node_id,
            dependencies.store_id,
            self.lifecycle.offers.boot,
            draining=condition.draining or condition.stopping,
            paused=condition.paused,
            in_flight=load.in_flight,
            waiting=load.waiting,
            time_ms=dependencies.clock.now_ms(),
        )

    def release_parked(self) -> int:
        """Resume all parked runs. Returns their number."""
        return self._recovery.release_all()

    async def adopt(self) -> list[Adopted]:
        """Take over the open runs of processes that have ended. Call this every few seconds.

        Returns one entry for each journal that was found. Raises JournalError.
        """
        if not self._serving:
            return []
        adopted = await self._dependencies.journal.adopt()
        for each in adopted:
            if each.moved.runs:
                self._dependencies.telemetry.event(
                    "runs_adopted", journal=each.journal, runs=len(each.moved.runs)
                )
            if self._serving:  # otherwise the next start recovers these runs
                await self._recovery.recover(each.moved)
            if each.why:
                self._dependencies.telemetry.problem(
                    "runs_left", journal=each.journal, runs=len(each.remaining), why=each.why
                )
        return adopted

    def find_unhandled_runs(self) -> frozenset[str]:
        """Return the ids of open runs that nothing handles. Call this every few seconds."""
        if self._serving:
            self._unhandled_runs.update()
        return self._unhandled_runs.unhandled

    def watch_journal(self) -> None:
        """Close the queue while the journal cannot write. Log when that begins and ends.

        Notes since when checks are not well, but not each time: to make all checks
        takes longer than to look at the journal.
        """
        self._watch.look_at_journal()
        self._open_or_close_queue()
        if self._statuses.must_note_faults:
            _ = self._statuses.note_faults(self.readiness())

    async def watch_clock(self) -> None:
        """Log changes of the clocks, and fire timers that became due during a suspend."""
        await self._watch.look_at_clock()

    def _open_or_close_queue(self) -> None:
        queue = self.lifecycle.queue
        is_paused = self.lifecycle.condition.paused
        if self._serving and not is_paused and self._dependencies.journal.blocked is None:
            queue.open()
        else:
            queue.close()

    def _make_ways_in(self, names: Iterable[str], config: Config) -> dict[str, WayIn]:
        return {name: self._makers[name](config, self) for name in names}

    async def _open(self, name: str, way_in: WayIn) -> None:
        """Open a way in. It replaces the open way in of the same name, if there is one."""
        predecessor = self._ways_in.get(name)
        if predecessor is not None and not way_in.takes_over:
            await self._ways_in.pop(name).stop()
            predecessor = None
        await way_in.start(predecessor)
        self._ways_in[name] = way_in

    # --- the intake ---------------------------------------------------------------------------

    async def receive(self, arrival: Arrival) -> AcceptedTrigger:
        """Accept a trigger. It is durable when this method returns. Raises Refused."""
        [answer] = await self.lifecycle.accept((arrival,))
        if isinstance(answer, Refused):
            raise answer
        return answer

    async def receive_all(self, arrivals: Sequence[Arrival]) -> list[AcceptedTrigger | Refused]:
        """Accept triggers that came together. Returns the answers in the same order."""
        return await self.lifecycle.accept(arrivals)

    async def set_aside(self, arrival: Arrival, refusal: Refused) -> None:
        """Store a refused message as a dead letter."""
        await self.lifecycle.acceptance.set_aside(arrival, refusal)

    async def wait_for_room(self) -> None:
        """Return when a refused trigger may be tried again."""
        await self.lifecycle.queue.capacity.wait_for_room()

    async def outcome(self, run_id: str, timeout_s: float) -> Outcome | None:
        """Wait for the outcome of a run. None: it did not end in time, or is not known."""
        return await self.lifecycle.outcomes.wait(run_id, timeout_s)

    def state_of(self, run_id: str) -> State | None:
        """The state of a run; None: no run with this id is open."""
        run = self.lifecycle.runs.get(run_id)
        return run.state if run else None

    async def status(self) -> NodeStatus:
        """What this process does now; see the port."""
        return await self._statuses.read(self.readiness())

    def readiness(self) -> list[ReadinessCheck]:
        """The conditions under which triggers are accepted, and checks for information."""
        return [
            *readiness_checks(self._dependencies, self.lifecycle, is_serving=self._serving),
            self._unhandled_runs.check(),
            *map(self._status, self._makers),
        ]

    def _status(self, name: str) -> ReadinessCheck:
        way_in = self._ways_in.get(name)
        return way_in.status() if way_in else ReadinessCheck(name, ok=False, text="not open")
