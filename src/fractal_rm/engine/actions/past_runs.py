"""Reads ended runs for actions. Reading blocks, so it runs on a thread."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

import msgspec

from fractal_rm.domain.actions import CannotActNow, NoLongerKept, NoSuchTarget
from fractal_rm.domain.facts import Accepted, AnyFact
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.transitions import ImpossibleFact
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.ports.history import Handled, PastRuns, RunDetail

Value = TypeVar("Value")


class PastRun(msgspec.Struct, frozen=True):
    """A run, as the history has it. ``facts`` are all of its facts.

    ``recorded`` is the flow with which it began; None: a dead letter, or the flow is not kept.
    ``run`` has the flow ``recorded``, or a flow without steps.
    """

    run: Run
    facts: list[AnyFact]
    recorded: Flow | None


class PastRunReader:
    """Reads runs, and what operators did with them."""

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._made: PastRuns | None = None

    async def detail(self, run_id: str) -> RunDetail:
        """One run. Raises NoSuchTarget, CannotActNow."""
        detail = await self._read(lambda past: past.run(run_id))
        if detail is None:
            raise NoSuchTarget(f"this node has no run {run_id:.40}", run=run_id)
        return detail

    async def complete(self, detail: RunDetail) -> PastRun:
        """The run with all facts and its recorded flow. Raises NoLongerKept, CannotActNow."""
        run_id, journal = detail.summary.id, detail.summary.journal
        facts = [each.fact for each in detail.facts]
        if not facts:
            raise _not_kept(run_id, "its facts are too old, and were deleted (history.max_age_s)")
        if detail.unreadable is not None:
            raise _not_kept(run_id, detail.unreadable)
        first, recorded = facts[0], None
        if isinstance(first, Accepted):
            version = first.version
            recorded = await self._read(lambda past: past.recorded_flow(journal, version))
        run = Run(run_id, recorded or Flow(detail.summary.flow or ""), detail.summary.accepted_ms)
        try:
            return PastRun(fold(run, facts), facts, recorded)
        except ImpossibleFact as error:
            raise _not_kept(run_id, str(error)) from error

    async def handled(self, run_id: str) -> Handled | None:
        """What an operator did last with a run; None: nothing. Raises CannotActNow."""
        return (await self._read(lambda past: past.handled([run_id]))).get(run_id)

    async def _read(self, question: Callable[[PastRuns], Value]) -> Value:
        if self._made is None:
            self._made = self._dependencies.make_past_runs()
        try:
            return await asyncio.to_thread(question, self._made)
        except JournalError as error:
            raise CannotActNow(f"the history cannot be read: {error}") from error


def has_request(detail: RunDetail, request_id: str) -> bool:
    """Whether the facts of a run record a request with this id."""
    return request_id != "" and any(
        getattr(each.fact, "request", "") == request_id for each in detail.facts
    )


def _not_kept(run_id: str, why: str) -> NoLongerKept:
    return NoLongerKept(f"run {run_id} cannot be repeated: {why}", run=run_id)
