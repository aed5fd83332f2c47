"""ORDER dataflow: steps that need nothing of each other are done at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Union

from fractal_rm.domain.flow import Call, Errors, Flow, Step, SubFlow
from fractal_rm.domain.needs import may_begin
from fractal_rm.domain.outcome import Later
from fractal_rm.domain.run import Run, Settled, State
from fractal_rm.engine.execute.together import cut_off, worst
from fractal_rm.engine.execute.tries import failed_for_good

Came = Union[Settled, Later, None]
Take = Callable[[Run, int, Step], Awaitable[Came]]
UnderWay = Callable[[Run, SubFlow], bool]


class Dataflow:
    """``take`` does one step; ``under_way`` says of a RUN whether its child is there."""

    def __init__(self, take: Take, under_way: UnderWay) -> None:
        self._take = take
        self._under_way = under_way

    async def go(self, run: Run) -> Settled | Later:
        """Do the steps. Where one fails, those in flight finish and no other begins."""
        tasks: dict[asyncio.Task[Came], int] = {}
        begun: set[int] = set()
        endings: list[Settled] = []
        pauses: list[Later] = []
        first = self._had_begun(run) if _has_failed(run) else None
        try:
            while True:
                for position in first if first is not None else _ready(run, endings):
                    if position not in begun:
                        begun.add(position)
                        step = run.flow.steps[position]
                        tasks[asyncio.ensure_future(self._take(run, position, step))] = position
                first = [] if first is not None else None
                if not tasks:
                    break
                done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    del tasks[task]
                    came = task.result()
                    if isinstance(came, Later):
                        pauses.append(came)
                    elif came is not None:
                        endings.append(came)
        finally:
            await cut_off(tasks)
        if pauses:
            return Later(min(pause.after_s for pause in pauses))
        return worst(endings) if endings else Settled(State.SUCCEEDED)

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


def _has_failed(run: Run) -> bool:
    return run.flow.errors is not Errors.CONTINUE and bool(failed_for_good(run))


def _ready(run: Run, endings: list[Settled]) -> list[int]:
    if endings:
        return []
    return may_begin(run.flow.steps, _done(run.flow, run), run.results.keys())


def _done(flow: Flow, run: Run) -> set[int]:
    """The positions of the steps that are done."""
    numbered = {
        position
        for position, step in enumerate(flow.steps)
        if isinstance(step, (Call, SubFlow)) and step.number in run.results
    }
    return numbered | (run.passed or set())
