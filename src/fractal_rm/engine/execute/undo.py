"""UNDO: after a step has failed, undo the finished steps, the last one first."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from msgspec import UNSET

from fractal_rm.domain.facts import Settled, Stopping
from fractal_rm.domain.flow import Call, OnError, Undo
from fractal_rm.domain.list_names import MAX_LISTED
from fractal_rm.domain.result import NULL
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.engine.execute.calls import Calls
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.request import part_for_undo

# The result of a skipped call, and the result of a FOREACH without elements.
_NO_CALL = (NULL, msgspec.Raw(b'"[]"'))
# A run that ends as unknown is not undone: a person must decide.
_UNDONE_STATES = frozenset({State.FAILED, State.EXPIRED, State.CANCELLED})


class UndoSteps:
    """Undoes the steps of failed runs. After a crash, it undoes the steps that are left."""

    def __init__(self, calls: Calls, recorder: Recorder) -> None:
        self._calls = calls
        self._recorder = recorder

    async def undo(self, run: Run, ending: Settled) -> Settled:
        """Undo the finished steps if the run has failed or expired, or is cancelled with undo.

        Returns the final ending.

        If an undo fails, its error is added to the reason, and the other undos are still made. The
        deadline of the run does not apply to undos, because it may have passed.
        """
        if ending.state not in _UNDONE_STATES or not _wants_undo(run):
            return ending
        calls = list(_calls_to_undo(run))
        if not calls:
            return ending
        if run.stopping is None:
            durable = self._recorder.record_durably(
                run, Stopping(ending.state, ending.reason, ending.cause)
            )
            if run.flow.durable.per_step:
                await durable
        notes = [note for each in calls if (note := await self._undo_step(run, *each))]
        unlisted = len(notes) - MAX_LISTED
        if unlisted > 0:
            notes[MAX_LISTED:] = [f"and {unlisted:,} more"]
        return msgspec.structs.replace(ending, reason="; ".join([ending.reason, *notes]))

    async def _undo_step(self, run: Run, call: Call, undo: Undo) -> str:
        """Undo one step. Returns why the undo failed, or an empty text."""
        if run.progress.undone_steps and call.number in run.progress.undone_steps:
            return ""
        part = part_for_undo(call, undo, self._calls.context(run))
        ending = await self._calls.make(run, call, part)
        return ending.reason if ending is not None else ""


def _wants_undo(run: Run) -> bool:
    """Whether the steps of a run are undone: as its operator asks, or by ERRORS of its flow."""
    stopping = run.stopping
    if run.cancel is not None and (stopping is None or stopping.state is State.CANCELLED):
        return run.cancel.undo
    return run.flow.errors is not OnError.CONTINUE


def _calls_to_undo(run: Run) -> Iterator[tuple[Call, Undo]]:
    """The finished calls that have an UNDO. The call that finished last comes first."""
    calls = {
        step.number: (step, step.options.undo)
        for step in run.flow.steps
        if isinstance(step, Call) and step.options is not UNSET and step.options.undo is not None
    }
    for number, result in reversed(run.progress.results.items()):
        if number in calls and result not in _NO_CALL:
            call, undo = calls[number]
            yield call, undo
