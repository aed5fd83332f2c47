"""ORDER dataflow: steps that do not depend on each other are executed concurrently.

A RUN step pauses while it waits for a permit, or while its child run waits. It resumes as soon as
possible. The run itself pauses, and frees its slot, only when no other step is in flight.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Union

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.domain.facts import Settled, StepFailed, request_name
from fractal_rm.domain.flow import Call, Flow, OnError, Step, SubFlow
from fractal_rm.domain.needs import DataflowPlan
from fractal_rm.domain.outcome import ResumeLater, worst_ending
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.execute.failed_attempts import failed_for_good, last_failure
from fractal_rm.engine.execute.tasks import cancel_all
from fractal_rm.engine.queue.permits import Permits
from fractal_rm.engine.timers import Timer, Timers

StepOutcome = Union[Settled, ResumeLater, None]  # None: the step is done
ExecuteStep = Callable[[Run, int, Step], Coroutine[None, None, StepOutcome]]
HasChild = Callable[[Run, SubFlow], bool]
WithdrawPermit = Callable[[Run, SubFlow], None]
Record = Callable[[Run, StepFailed], object]


class Dataflow:
    """Executes the steps of a run concurrently.

    ``has_child`` returns whether a RUN has an open child run. ``withdraw_permit`` is called to free
    the permit of a RUN that will not begin. ``record`` records that a step has ended the run.
    """

    def __init__(
        self,
        execute_step: ExecuteStep,
        record: Record,
        has_child: HasChild,
        withdraw_permit: WithdrawPermit,
        permits: Permits,
        timers: Timers,
    ) -> None:
        self._execute_step = execute_step
        self._record = record
        self._has_child = has_child
        self._withdraw_permit = withdraw_permit
        self._permits = permits
        self._timers = timers

    async def execute(self, run: Run) -> Settled | ResumeLater:
        """Execute the steps. After a failure no other step begins, but steps in flight finish."""
        steps, plan = run.flow.steps, DataflowPlan(run.flow.steps)
        in_flight = _StepsInFlight(
            lambda position: self._execute_step(run, position, steps[position]),
            lambda position, ending: self._record_ending(run, position, ending),
            self._timers,
            _recorded_endings(run),
        )
        failed = bool(in_flight.endings) or _has_failed(run)
        positions = self._begun_before_failure(run) if failed else _ready_positions(run, plan)
        self._permits.on_grant[run.id] = in_flight.wake
        try:
            while True:
                in_flight.begin(positions)
                if not in_flight.tasks:
                    return in_flight.outcome()
                await in_flight.wait()
                if run.cancel is not None:
                    in_flight.end_pauses()
                for position in in_flight.drop_not_begun():
                    step = steps[position]
                    if isinstance(step, SubFlow):
                        self._withdraw_permit(run, step)
                is_ending = failed or in_flight.endings or run.cancel is not None
                positions = [] if is_ending else _ready_positions(run, plan)
        finally:
            del self._permits.on_grant[run.id]
            await in_flight.close()

    def _record_ending(self, run: Run, position: int, ending: Settled) -> None:
        """Record that a step ended the run, so that no other step begins, also after a crash."""
        if run.cancel is not None:  # this fact has the same effect
            return
        number, part = _name_at(position, run.flow.steps[position])
        if request_name(number, part) not in failed_for_good(run):
            unknown = True if ending.state is State.UNKNOWN else UNSET
            self._record(run, StepFailed(
                number, 0, ending.reason, part, final=True, unknown=unknown, cause=ending.cause
            ))  # fmt: skip

    def _begun_before_failure(self, run: Run) -> list[int]:
        """The positions of the steps that must finish: they began before a step failed."""
        names = {*failed_for_good(run), *(run.progress.in_doubt or ())}
        steps = {name.partition(".")[0] for name in names}
        return [
            position
            for position, step in enumerate(run.flow.steps)
            if f"@{position}" in steps
            or (isinstance(step, (Call, SubFlow)) and self._is_open(run, step, steps))
        ]

    def _is_open(self, run: Run, step: Call | SubFlow, begun_numbers: set[str]) -> bool:
        if step.number in run.progress.results:
            return False
        if str(step.number) in begun_numbers:
            return True
        return isinstance(step, SubFlow) and self._has_child(run, step)


class _Pause(msgspec.Struct, frozen=True):
    """A paused step."""

    has_begun: bool  # whether the step has begun its work
    timer: Timer  # resumes the step


class _StepsInFlight:
    """The steps in flight, the paused steps, and an ending of the run for each failed step."""

    def __init__(
        self,
        execute_step: Callable[[int], Coroutine[None, None, StepOutcome]],
        record_ending: Callable[[int, Settled], None],
        timers: Timers,
        recorded_endings: dict[int, Settled],
    ) -> None:
        self.tasks: dict[asyncio.Task[StepOutcome], int] = {}
        self.endings = [*recorded_endings.values()]
        self._execute_step = execute_step
        self._record_ending = record_ending
        self._timers = timers
        self._started = {*recorded_endings}
        self._paused: dict[int, _Pause] = {}
        self._woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def begin(self, positions: list[int]) -> None:
        """Begin the steps at these positions, except those that have begun."""
        for position in positions:
            if position not in self._started:
                self._started.add(position)
                self._begin(position)

    def wake(self) -> None:
        """Resume the paused steps."""
        if not self._woken.done():
            self._woken.set_result(None)

    async def wait(self) -> None:
        """Return when a step in flight has returned, or when paused steps have resumed."""
        done, _ = await asyncio.wait(
            {*self.tasks, self._woken}, return_when=asyncio.FIRST_COMPLETED
        )
        for task in [task for task in self.tasks if task in done]:
            self._finish(self.tasks.pop(task), task.result())
        if self._woken.done():
            self._woken = asyncio.get_running_loop().create_future()
            for position, pause in [*self._paused.items()]:
                if pause.has_begun or not self.endings:  # after a failure, no other step begins
                    self._end_pause(position)
                    self._begin(position)

    def drop_not_begun(self) -> list[int]:
        """If the run ends, drop the paused steps that have not begun. Returns their positions."""
        if not self.endings:
            return []
        positions = [position for position, pause in self._paused.items() if not pause.has_begun]
        for position in positions:
            self._end_pause(position)
        return positions

    def outcome(self) -> Settled | ResumeLater:
        """How the run ends, or when it resumes. No step may be in flight."""
        if self._paused:
            until_ms = min(pause.timer.at_ms for pause in self._paused.values())
            return ResumeLater(max(0, until_ms - self._timers.now_ms()) / 1000)
        return worst_ending(self.endings) if self.endings else Settled(State.SUCCEEDED)

    def end_pauses(self) -> None:
        """Forget the paused steps: they do not resume."""
        for position in [*self._paused]:
            self._end_pause(position)

    async def close(self) -> None:
        """Cancel the steps in flight."""
        self.end_pauses()
        await cancel_all(self.tasks)

    def _begin(self, position: int) -> None:
        self.tasks[asyncio.ensure_future(self._execute_step(position))] = position

    def _finish(self, position: int, outcome: StepOutcome) -> None:
        if isinstance(outcome, ResumeLater):
            timer = self._timers.set(outcome.after_s * 1000, self.wake)
            self._paused[position] = _Pause(outcome.has_begun, timer)
        elif outcome is not None:
            self.endings.append(outcome)
            self._record_ending(position, outcome)

    def _end_pause(self, position: int) -> None:
        self._paused.pop(position).timer.cancel()


def _name_at(position: int, step: Step) -> tuple[int, str | UnsetType]:
    """The step number and the part for a `StepFailed` fact of a step."""
    return (step.number, UNSET) if isinstance(step, (Call, SubFlow)) else (0, f"@{position}")


def _recorded_endings(run: Run) -> dict[int, Settled]:
    """How the steps that failed without an attempt end the run, by position of the step."""
    endings: dict[int, Settled] = {}
    for position, step in enumerate(run.flow.steps) if run.progress.failures else ():
        last = last_failure(run, request_name(*_name_at(position, step)))
        if last is not None and last.attempt == 0:
            state = State.UNKNOWN if last.unknown is True else State.FAILED
            endings[position] = Settled(state, last.reason, last.cause)
    return endings


def _has_failed(run: Run) -> bool:
    return run.flow.errors is not OnError.CONTINUE and bool(failed_for_good(run))


def ready_positions_of(run: Run) -> list[int]:
    """The positions of the unfinished steps of a run that may begin or have begun."""
    return _ready_positions(run, DataflowPlan(run.flow.steps))


def _ready_positions(run: Run, plan: DataflowPlan) -> list[int]:
    return plan.ready_positions(_done_positions(run.flow, run), run.progress.results.keys())


def _done_positions(flow: Flow, run: Run) -> set[int]:
    """The positions of the steps that are done."""
    numbered = {
        position
        for position, step in enumerate(flow.steps)
        if isinstance(step, (Call, SubFlow)) and step.number in run.progress.results
    }
    return numbered | (run.progress.passed_steps or set())
