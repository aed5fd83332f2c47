"""FOREACH: make a call once for each element of a list."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.domain.body import SKIPPED, check_listable, list_element, list_text
from fractal_rm.domain.cancelling import cancelled
from fractal_rm.domain.cause import Failure
from fractal_rm.domain.condition import is_true
from fractal_rm.domain.evaluate import check_size
from fractal_rm.domain.evaluation_context import EvaluationContext
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import Call, ForEach
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.needs import uses_item
from fractal_rm.domain.outcome import worst_ending
from fractal_rm.domain.result import StepResult
from fractal_rm.domain.run import Run
from fractal_rm.domain.value_budget import ValueBudget
from fractal_rm.engine.execute.calls import Calls
from fractal_rm.engine.execute.failed_attempts import failed_for_good
from fractal_rm.engine.execute.tasks import cancel_all
from fractal_rm.engine.request import CallPart, part_for_element

MAX_ELEMENTS = 10_000
BYTES_BETWEEN_YIELDS = 128 * 1024  # other tasks may run after this many bytes are parsed


class ForEachCalls:
    """Makes the calls of a FOREACH: after a crash, only the calls for unfinished elements."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def make(self, run: Run, call: Call, foreach: ForEach) -> Settled | None:
        """Make the call for each element. Returns None if all succeed, else how the run ends."""
        try:
            context = self._calls.context(run)
            if _is_skipped(call, context):
                return self._calls.finish_without_response(run, call, SKIPPED)
            parts = _parts(call, foreach, context)
            endings = await self._make_all(run, call, parts, foreach.max_parallel)
            if endings:
                return worst_ending(endings)
            if run.cancel is not None:
                return cancelled(run.cancel)
            results = _results_by_element(run, call)
            result = await self._join(
                check_listable(results[part.element], part.element) for part in parts
            )
        except CannotEvaluate as fault:
            return self._calls.fail(run, call, Failure.of(fault))
        return self._calls.finish_without_response(run, call, result)

    async def _join(self, results: Iterable[msgspec.Raw]) -> msgspec.Raw:
        """Join the results to one list, and let other tasks run. Raises CannotEvaluate."""
        parts: list[bytes] = []
        since_yield = 0
        for result in results:
            since_yield += len(result)
            if since_yield > BYTES_BETWEEN_YIELDS:
                since_yield = 0
                await asyncio.sleep(0)
            parts.append(list_element(result, ValueBudget(self._calls.bounds.max_evaluated_values)))
        return list_text(parts)

    async def _make_all(
        self, run: Run, call: Call, parts: list[CallPart], max_concurrent: int
    ) -> list[Settled]:
        """Make up to ``max_concurrent`` calls at a time. After a failure, no other call begins."""
        progress = _Progress(_unfinished_parts(run, call, parts))
        for element, result in _results_by_element(run, call).items():
            progress.add(element, result)
        workers = [
            asyncio.ensure_future(self._make_some(run, call, progress))
            for _ in range(min(max(1, max_concurrent), len(parts)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            await cancel_all(workers)
        progress.check()
        return progress.endings

    async def _make_some(self, run: Run, call: Call, progress: _Progress) -> None:
        """Make calls one after another. All workers take their elements from ``progress``."""
        for part in progress.unfinished:
            if progress.must_stop or run.cancel is not None:
                return
            ending = await self._calls.make(run, call, part)
            if ending is not None:
                progress.endings.append(ending)
            else:
                progress.add(part.element, _results_by_element(run, call)[part.element])
            # Let other tasks run: if elements are skipped, `make` never waits.
            await asyncio.sleep(0)


class _Progress:
    """The progress of a FOREACH: the unfinished elements, and the reasons to stop."""

    def __init__(self, unfinished: list[CallPart]) -> None:
        self.unfinished = iter(unfinished)
        self.endings: list[Settled] = []
        self._size = 0
        self._list_error: CannotEvaluate | None = None

    def add(self, element: int, result: StepResult) -> None:
        """Add the result for one element."""
        self._size += len(result)
        try:
            check_listable(result, element)
            check_size(self._size)
        except CannotEvaluate as fault:
            self._list_error = self._list_error or fault

    @property
    def must_stop(self) -> bool:
        """Whether no other call may begin: a call failed, or the results cannot be a list."""
        return bool(self.endings) or self._list_error is not None

    def check(self) -> None:
        """Raise CannotEvaluate if the results cannot be a list."""
        if self._list_error is not None:
            raise self._list_error


def _is_skipped(call: Call, context: EvaluationContext) -> bool:
    """Whether WHEN skips all elements. If it uses the item, it is evaluated for each element."""
    when = None if call.options is UNSET else call.options.when
    return when is not None and not uses_item(when) and not is_true(when, context)


def _parts(call: Call, foreach: ForEach, context: EvaluationContext) -> list[CallPart]:
    """One part for each element. Raises CannotEvaluate."""
    elements: list[Any] = context.elements(foreach.list_reference)
    if len(elements) > MAX_ELEMENTS:
        raise CannotEvaluate(f"FOREACH takes at most {MAX_ELEMENTS} elements, not"
                             f" {len(elements)}")  # fmt: skip
    return [
        part_for_element(call, element, context.with_item(item))
        for element, item in enumerate(elements, start=1)
    ]


def _unfinished_parts(run: Run, call: Call, parts: list[CallPart]) -> list[CallPart]:
    """The unfinished parts. If the step failed before a crash, only parts that had begun."""
    finished = _results_by_element(run, call)
    names = {part.name for part in parts}
    failed = names.intersection(failed_for_good(run)) - {
        f"{call.number}.{element}" for element in finished
    }
    if failed:
        begun_names = failed | (run.progress.in_doubt or set())
        return [part for part in parts if part.name in begun_names]
    return [part for part in parts if part.element not in finished]


def _results_by_element(run: Run, call: Call) -> dict[int, StepResult]:
    return (run.progress.elements or {}).get(call.number, {})
