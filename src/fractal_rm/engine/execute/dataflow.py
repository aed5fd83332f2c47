"""ORDER dataflow: steps that need nothing of each other are done at the same time.

A step that pauses (a RUN that waits for a place, or whose run waits) is taken up again as soon as
it may go on. Only where nothing else is in flight, the whole run pauses, and leaves its slot.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.facts import Settled, StepFailed, name_of
from fractal_rm.domain.flow import Call, Errors, Flow, Step, SubFlow
from fractal_rm.domain.needs import Plan
from fractal_rm.domain.outcome import Later
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.alarms import Alarm, Alarms
from fractal_rm.engine.execute.together import cut_off, worst
from fractal_rm.engine.execute.tries import failed_for_good, last_failure
from fractal_rm.engine.queue.permits import Permits

Came = Union[Settled, Later, None]
Take = Callable[[Run, int, Step], Coroutine[None, None, Came]]
UnderWay = Callable[[Run, SubFlow], bool]
Forgo = Callable[[Run, SubFlow], None]
Note = Callable[[Run, StepFailed], object]


class Dataflow:
    """``take`` does one step; ``under_way`` says of a RUN whether its child is there.

    ``forgo`` is told of a RUN that begins no more: a place that it has is for others. ``note``
    writes that a step has ended the run.
    """

    def __init__(
        self,
        take: Take,
        note: Note,
        under_way: UnderWay,
        forgo: Forgo,
        permits: Permits,
        alarms: Alarms,
    ) -> None:
        self._take = take
        self._note = note
        self._under_way = under_way
        self._forgo = forgo
        self._permits = permits
        self._alarms = alarms

    async def go(self, run: Run) -> Settled | Later:
        """Do the steps. Where one fails, those in flight finish and no other begins."""
        steps, plan = run.flow.steps, Plan(run.flow.steps)
        flight = _Flight(
            lambda position: self._take(run, position, steps[position]),
            lambda position, ending: self._ended(run, position, ending),
            self._alarms,
            _noted_ends(run),
        )
        failed = bool(flight.endings) or _has_failed(run)
        ready = self._had_begun(run) if failed else _ready(run, plan)
        self._permits.on_grant[run.id] = flight.wake
        try:
            while True:
                flight.begin(ready)
                if not flight.tasks:
                    return flight.came_to()
                await flight.wait()
                for step in map(steps.__getitem__, flight.left_out()):
                    if isinstance(step, SubFlow):
                        self._forgo(run, step)
                ready = [] if failed or flight.endings else _ready(run, plan)
        finally:
            del self._permits.on_grant[run.id]
            await flight.close()

    def _ended(self, run: Run, position: int, ending: Settled) -> None:
        """Have it written, so that no other step begins after a pause or a crash either."""
        number, part = _name_at(position, run.flow.steps[position])
        if name_of(number, part) not in failed_for_good(run):
            unknown = True if ending.state is State.UNKNOWN else UNSET
            self._note(run, StepFailed(
                number, 0, ending.reason, part, final=True, unknown=unknown, cause=ending.cause
            ))  # fmt: skip

    def _had_begun(self, run: Run) -> list[int]:
        """After a crash in a run that has failed: what was in flight finishes, as without it."""
        names = {*failed_for_good(run), *(run.in_doubt or ())}
        steps = {name.partition(".")[0] for name in names}
        return [
            position
            for position, step in enumerate(run.flow.steps)
            if f"@{position}" in steps
            or (isinstance(step, (Call, SubFlow)) and self._is_open(run, step, steps))
        ]

    def _is_open(self, run: Run, step: Call | SubFlow, begun: set[str]) -> bool:
        if step.number in run.results:
            return False
        if str(step.number) in begun:
            return True
        return isinstance(step, SubFlow) and self._under_way(run, step)


class _Pause(msgspec.Struct, frozen=True):
    begun: bool  # whether the step has done anything yet
    alarm: Alarm  # wakes it when its time has come


class _Flight:
    """The steps that are in flight, those that pause, and how others ended the run."""

    def __init__(
        self,
        take: Callable[[int], Coroutine[None, None, Came]],
        ended: Callable[[int, Settled], None],
        alarms: Alarms,
        before: dict[int, Settled],
    ) -> None:
        self.tasks: dict[asyncio.Task[Came], int] = {}
        self.endings = [*before.values()]
        self._take = take
        self._ended = ended
        self._alarms = alarms
        self._taken_up = {*before}
        self._paused: dict[int, _Pause] = {}
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, positions: list[int]) -> None:
        """Take up those that are not yet."""
        for position in positions:
            if position not in self._taken_up:
                self._taken_up.add(position)
                self._begin(position)

    def wake(self) -> None:
        """A step that pauses may go on."""
        if not self._woken.done():
            self._woken.set_result(None)

    async def wait(self) -> None:
        """Return when a step has landed, or one that paused goes on."""
        done, _ = await asyncio.wait(
            {*self.tasks, self._woken}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in [task for task in self.tasks if task in done]:
            self._land(self.tasks.pop(task), task.result())
        if self._woken.done():
            self._woken = asyncio.get_running_loop().create_future()
            for position, pause in [*self._paused.items()]:
                if pause.begun or not self.endings:
                    self._unpause(position)
                    self._begin(position)

    def left_out(self) -> list[int]:
        """The steps that have paused before they began, where another ended the run: they do not.

        They are so named once.
        """
        if not self.endings:
            return []
        found = [position for position, pause in self._paused.items() if not pause.begun]
        for position in found:
            self._unpause(position)
        return found

    def came_to(self) -> Settled | Later:
        """How the run ends, or when it goes on; nothing is in flight any more."""
        if self._paused:
            until_ms = min(pause.alarm.at_ms for pause in self._paused.values())
            return Later(max(0, until_ms - self._alarms.now_ms()) / 1000)
        return worst(self.endings) if self.endings else Settled(State.SUCCEEDED)

    async def close(self) -> None:
        """Cut off what is in flight."""
        for position in [*self._paused]:
            self._unpause(position)
        await cut_off(self.tasks)

    def _begin(self, position: int) -> None:
        self.tasks[asyncio.ensure_future(self._take(position))] = position

    def _land(self, position: int, came: Came) -> None:
        if isinstance(came, Later):
            alarm = self._alarms.set(came.after_s * 1000, self.wake)
            self._paused[position] = _Pause(came.begun, alarm)
        elif came is not None:
            self.endings.append(came)
            self._ended(position, came)

    def _unpause(self, position: int) -> None:
        self._paused.pop(position).alarm.cancel()


def _name_at(position: int, step: Step) -> tuple[int, str | UnsetType]:
    """The step and the part of the facts that say how it failed."""
    return (step.number, UNSET) if isinstance(step, (Call, SubFlow)) else (0, f"@{position}")


def _noted_ends(run: Run) -> dict[int, Settled]:
    """How steps have ended the run, by position, where no attempt of them says so."""
    found: dict[int, Settled] = {}
    for position, step in enumerate(run.flow.steps) if run.failures else ():
        last = last_failure(run, name_of(*_name_at(position, step)))
        if last is not None and last.attempt == 0:
            state = State.UNKNOWN if last.unknown is True else State.FAILED
            found[position] = Settled(state, last.reason, last.cause)
    return found


def _has_failed(run: Run) -> bool:
    return run.flow.errors is not Errors.CONTINUE and bool(failed_for_good(run))


def may_begin(run: Run) -> list[int]:
    """The positions of the steps of a run that may begin, or have begun."""
    return _ready(run, Plan(run.flow.steps))


def _ready(run: Run, plan: Plan) -> list[int]:
    return plan.may_begin(_done(run.flow, run), run.results.keys())


def _done(flow: Flow, run: Run) -> set[int]:
    """The positions of the steps that are done."""
    numbered = {
        position
        for position, step in enumerate(flow.steps)
        if isinstance(step, (Call, SubFlow)) and step.number in run.results
    }
    return numbered | (run.passed or set())
