"""Says where the open runs are: at which steps of flows, and at calls of which components."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from msgspec import UNSET

from fractal_rm.domain.flow import Call, Flow, SubFlow, without_lines
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE, State
from fractal_rm.engine.open_runs import OpenRuns

# Looking at so many runs takes a few milliseconds. Then other tasks have a turn.
RUNS_PER_TURN = 2_000
KEPT_S = 1.0


@dataclass
class RunsNow:
    """How many runs are in each state, at a call of each component, and at each step of each flow.

    Steps are named by the id of the flow and their position in its steps. Runs that began with
    another definition of their flow are not counted at steps.
    """

    by_state: Counter[State] = field(default_factory=Counter)
    at_components: Counter[str] = field(default_factory=Counter)
    at_steps: dict[str, Counter[int]] = field(default_factory=dict)


class OpenRunSurvey:
    """Looks at all open runs. While there are many, what was seen counts for `KEPT_S`.

    ``now_s`` is a clock that does not go back.
    """

    def __init__(self, runs: OpenRuns, now_s: Callable[[], float]) -> None:
        self._runs = runs
        self._now_s = now_s
        self._seen: RunsNow | None = None
        self._until_s = 0.0

    async def now(self, flows: Mapping[str, Flow]) -> RunsNow:
        """Where the runs are. ``flows`` are those in force."""
        if self._seen is not None and self._now_s() < self._until_s:
            return self._seen
        seen = await find_runs_now(self._runs, flows)
        self._seen = seen if len(self._runs) > RUNS_PER_TURN else None
        self._until_s = self._now_s() + KEPT_S
        return seen


async def find_runs_now(runs: OpenRuns, flows: Mapping[str, Flow]) -> RunsNow:
    """Look at all open runs. ``flows`` are those in force.

    Only runs that this node executes are at a component or at a step. They are also there while
    their call waits for a limit or for its next attempt.
    """
    found = RunsNow()
    snapshot = list(runs)  # keeps the flows of all runs, so their ids are unique
    is_current: dict[int, bool] = {}
    for at in range(0, len(snapshot), RUNS_PER_TURN):
        if at:
            await asyncio.sleep(0)
        some = snapshot[at : at + RUNS_PER_TURN]
        found.by_state.update([each.state for each in some])
        # Most open runs wait, and are not looked at closely.
        for run in [each for each in some if each.placement is HERE]:
            if run.state is not State.PARKED:
                flow = run.flow
                if id(flow) not in is_current:
                    is_current[id(flow)] = _does_the_same(flow, flows.get(flow.id))
                _add(found, run, is_current=is_current[id(flow)])
    return found


def _add(found: RunsNow, run: Run, *, is_current: bool) -> None:
    flow = run.flow
    for position in _positions_now(run):
        step = flow.steps[position]
        if isinstance(step, Call):
            found.at_components[step.component] += 1
        if is_current and run.stopping is None:
            found.at_steps.setdefault(flow.id, Counter())[position] += 1


def _does_the_same(flow: Flow, current: Flow | None) -> bool:
    if current is None or flow is current:
        return current is not None
    return without_lines(flow) == without_lines(current)


def _positions_now(run: Run) -> Iterator[int]:
    """The positions of the steps at which a run is."""
    steps = run.flow.steps
    if run.flow.order is UNSET:
        if run.progress.position < len(steps):
            yield run.progress.position
        return
    numbers = {name.partition(".")[0] for name in run.progress.in_doubt or ()}
    for position, step in enumerate(steps):
        if isinstance(step, (Call, SubFlow)) and str(step.number) in numbers:
            yield position
