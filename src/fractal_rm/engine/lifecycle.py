"""The sentence: a trigger is admitted, journalled, placed, executed, settled.

Where a step has failed, what was done before it is undone between the last two.
"""

from __future__ import annotations

from fractal_rm.domain.admission import Load
from fractal_rm.domain.facts import Begun, Dead, Settled
from fractal_rm.domain.handoff import Again
from fractal_rm.domain.outcome import Later
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.admit import Admit
from fractal_rm.engine.execute import Executor
from fractal_rm.engine.execute.waits import Waits
from fractal_rm.engine.hand_off import HandOff
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.place import Placer
from fractal_rm.engine.places import Places
from fractal_rm.engine.reply import Replies
from fractal_rm.engine.waiting_room import WaitingRoom
from fractal_rm.engine.world import World


class Lifecycle:
    """What happens to every trigger, in order."""

    def __init__(self, world: World) -> None:
        load = Load()
        self.runs = OpenRuns(world, load)
        places = Places(self.runs, world.config.flows)
        self.room = WaitingRoom(load, world.limits(), places, world.alarms, self.turn_away)
        self.admit = Admit(world, self.runs, self.room)
        self._place = Placer(world, self.runs)
        self._hand_off = HandOff(world, self.runs)
        self._execute = Executor(world, self.runs, self.room)
        self._replies = Replies(world, self.runs)
        self._waits = Waits(self.runs, places, world.clock)
        self.set_aside_children = self._execute.set_aside_children
        self._clock = world.clock
        self._alarms = world.alarms
        self._telemetry = world.telemetry
        self.interrupted: set[str] = set()  # runs that a crash interrupted, not begun again yet

    async def carry(self, run: Run) -> float | None:
        """Placed, executed, settled: called for each run when its turn has come.

        Returns None when it has ended, or after how many seconds it wants another turn.
        """
        if run.id in self.interrupted:
            await self._count(run)
        try:
            ending = _ended_before(run)
            if ending is None:
                node_id = await self._place.place(run)
                if node_id is not None:
                    ending = await self._hand_off.hand_off(run, node_id)
            if ending is None:
                if run.id in self.interrupted:  # for another node until now
                    await self._count(run)
                ending = await self._execute.execute(run)
                if isinstance(ending, Settled) and ending.state is not State.SUCCEEDED:
                    ending = await self._execute.undo(run, ending)
        except Exception as error:  # noqa: BLE001 - the top of the task
            ending = await self._execute.broken(run, error)  # and the node goes on with the others
        if run.reply_topic is not None and not isinstance(ending, (Again, Later)):
            ending = await self._replies.deliver(run, run.reply_topic, ending)
        if isinstance(ending, (Again, Later)):
            return ending.after_s
        await self.settle(run, ending)
        return None

    async def _count(self, run: Run) -> None:
        """Count an attempt before it runs: if it then ends the process, that is known (G12)."""
        if not self._waits.only_waits(run):
            self.interrupted.discard(run.id)
            await self.runs.write(run, Begun(run.attempts + 1))

    async def turn_away(self, run: Run, ending: Settled | Dead) -> None:
        """Settle a run that is not to begin any more; the waiting room does. Its sender is told."""
        while run.reply_topic is not None:
            told = await self._replies.deliver(run, run.reply_topic, ending)
            if not isinstance(told, Again):
                ending = told
                break
            await self._alarms.sleep(told.after_s * 1000)
        await self.settle(run, ending)

    async def settle(self, run: Run, ending: Settled | Dead) -> None:
        """Write how a run ended."""
        self.interrupted.discard(run.id)
        await self.runs.close(run, ending)
        self._telemetry.run_settled(run, self._clock.steady_ms)


def _ended_before(run: Run) -> Settled | None:
    """How it has ended already, in an earlier turn or before a crash: its sender is to be told."""
    told = run.replying
    return None if told is None else Settled(told.state, told.reason, told.cause)
