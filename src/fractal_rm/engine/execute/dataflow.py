"""ORDER dataflow: steps that need nothing of each other are done at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Union

from fractal_rm.domain.flow import Call, Errors, Flow, Step, SubFlow
from fractal_rm.domain.needs import Plan
from fractal_rm.domain.outcome import Later
from fractal_rm.domain.run import Run, Settled, State
from fractal_rm.engine.execute.together import cut_off, worst
from fractal_rm.engine.execute.tries import failed_for_good

Came = Union[Settled, Later, None]
Take = Callable[[Run, int, Step], Coroutine[None, None, Came]]
UnderWay = Callable[[Run, SubFlow], bool]
Forgo = Callable[[Run, SubFlow], None]


class Dataflow:
    """``take`` does one step; ``under_way`` says of a RUN whether its child is there.

    ``forgo`` is told of a RUN that begins no more: a place that it has is for others.
    """

    def __init__(self, take: Take, under_way: UnderWay, forgo: Forgo) -> None:
        self._take = take
        self._under_way = under_way
        self._forgo = forgo

    async def go(self, run: Run) -> Settled | Later:
        """Do the steps. Where one fails, those in flight finish and no other begins."""
        flight, plan = _Flight(), Plan(run.flow.steps)
        failed = _has_failed(run)
        ready = self._had_begun(run) if failed else _ready(run, plan)
        try:
            while True:
                for position in flight.new(ready):
                    flight.begin(self._take(run, position, run.flow.steps[position]))
                if not flight.tasks:
                    if flight.endings:
                        self._begin_no_other(run)
                    return flight.came_to()
                await flight.wait()
                ready = [] if failed or flight.endings else _ready(run, plan)
        finally:
            await cut_off(flight.tasks)

    def _begin_no_other(self, run: Run) -> None:
        """Runs that it has begun may wait for what its other steps keep."""
        for step in run.flow.steps:
            if isinstance(step, SubFlow) and not self._under_way(run, step):
                self._forgo(run, step)

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


class _Flight:
    """The steps that are in flight, and what came of those that have landed."""

    def __init__(self) -> None:
        self.tasks: set[asyncio.Task[Came]] = set()
        self.endings: list[Settled] = []
        self._begun: set[int] = set()
        self._pauses: list[Later] = []

    def new(self, positions: list[int]) -> list[int]:
        """Those that are not taken up yet; from now on they are."""
        new = [position for position in positions if position not in self._begun]
        self._begun.update(new)
        return new

    def begin(self, step: Coroutine[None, None, Came]) -> None:
        """Take a step up."""
        self.tasks.add(asyncio.ensure_future(step))

    async def wait(self) -> None:
        """Return when a step has landed."""
        done, self.tasks = await asyncio.wait(self.tasks, return_when=asyncio.FIRST_COMPLETED)
        for came in [task.result() for task in done]:
            if isinstance(came, Later):
                self._pauses.append(came)
            elif came is not None:
                self.endings.append(came)

    def came_to(self) -> Settled | Later:
        """How the run ends, or when it goes on; nothing is in flight any more.

        Where a step has failed, one that has not begun does not begin.
        """
        pauses = [pause for pause in self._pauses if pause.begun or not self.endings]
        if pauses:
            return Later(min(pause.after_s for pause in pauses))
        return worst(self.endings) if self.endings else Settled(State.SUCCEEDED)


def _has_failed(run: Run) -> bool:
    return run.flow.errors is not Errors.CONTINUE and bool(failed_for_good(run))


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
