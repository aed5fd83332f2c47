"""UNDO: after a step has failed for good, what finished steps did is undone, the last one first."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from fractal_rm.domain.facts import Settled, Stopping
from fractal_rm.domain.flow import Call, Errors, Undo
from fractal_rm.domain.named import MOST_NAMED
from fractal_rm.domain.result import NULL
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.execute.calls import Calls
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import part_to_undo

_NOTHING = (NULL, msgspec.Raw(b'"[]"'))  # of what was skipped, of a FOREACH over nothing
_UNDONE = frozenset({State.FAILED, State.EXPIRED})  # what is in doubt, an operator decides


class Undoing:
    """Goes on after the undos that were made, where a crash came between."""

    def __init__(self, calls: Calls, recorder: Recorder) -> None:
        self._calls = calls
        self._recorder = recorder

    async def undo(self, run: Run, ending: Settled) -> Settled:
        """Undo what the run did, if that is how it ends. Returns how it ends, with what failed.

        An undo that fails is noted, and the others are made all the same. They have time limits
        of their own: the time of the run may have ended.
        """
        if ending.state not in _UNDONE or run.flow.errors is Errors.CONTINUE:
            return ending
        to_undo = list(_to_undo(run))
        if not to_undo:
            return ending
        if run.stopping is None:
            durable = self._recorder.record_durably(
                run, Stopping(ending.state, ending.reason, ending.cause)
            )
            if run.flow.durable.each_step:
                await durable
        notes = [note for each in to_undo if (note := await self._once(run, *each))]
        more = len(notes) - MOST_NAMED
        if more > 0:
            notes[MOST_NAMED:] = [f"and {more:,} more"]
        return Settled(ending.state, "; ".join([ending.reason, *notes]), ending.cause)

    async def _once(self, run: Run, call: Call, undo: Undo) -> str:
        """Undo one step. Returns why it could not be, or nothing."""
        if run.undone and call.number in run.undone:
            return ""
        failed = await self._calls.make(run, call, part_to_undo(call, undo, self._calls.seen(run)))
        return failed.reason if failed is not None else ""


def _to_undo(run: Run) -> Iterator[tuple[Call, Undo]]:
    """The finished calls that say how they are undone, the last that finished first."""
    calls = {
        step.number: (step, step.terms.undo)
        for step in run.flow.steps
        if isinstance(step, Call) and step.terms is not UNSET and step.terms.undo is not None
    }
    for number, result in reversed(run.results.items()):
        if number in calls and result not in _NOTHING:
            call, undo = calls[number]
            yield call, undo
