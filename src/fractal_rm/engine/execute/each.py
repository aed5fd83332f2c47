"""FOREACH: a call is made once for each element of a list."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.domain.body import SKIPPED, check_listable, in_list, list_text
from fractal_rm.domain.cause import Failure
from fractal_rm.domain.condition import holds
from fractal_rm.domain.evaluate import check_size
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import Call, Each
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.needs import speaks_of_item
from fractal_rm.domain.result import StepResult, size_of
from fractal_rm.domain.run import Run
from fractal_rm.domain.seen import Seen
from fractal_rm.domain.values import Values
from fractal_rm.engine.execute.calls import Calls
from fractal_rm.engine.execute.together import cut_off, worst
from fractal_rm.engine.execute.tries import failed_for_good
from fractal_rm.engine.request import Part, part_of_element

MOST_ELEMENTS = 10_000
LIST_AT_ONCE_BYTES = 128 * 1024  # of results that are read as JSON before others have a turn


class ForEach:
    """Goes on after the elements that are finished; their results wait in the run for the list."""

    def __init__(self, calls: Calls) -> None:
        self._calls = calls

    async def make(self, run: Run, call: Call, each: Each) -> Settled | None:
        """Make the call for each element. None: it has its list; otherwise how the run ends."""
        try:
            seen = self._calls.seen(run)
            if _is_skipped(call, seen):
                return self._calls.put(run, call, SKIPPED)
            parts = _parts(call, each, seen)
            endings = await self._make_all(run, call, parts, each.at_once)
            if endings:
                return worst(endings)
            results = _finished(run, call)
            result = await self._list(
                check_listable(results[part.element], part.element) for part in parts
            )
        except CannotEvaluate as fault:
            return self._calls.fail(run, call, Failure.of(fault))
        return self._calls.put(run, call, result)

    async def _list(self, results: Iterable[msgspec.Raw]) -> msgspec.Raw:
        """The list of the results; others go on while a long one is made. Raises CannotEvaluate."""
        parts: list[bytes] = []
        since_pause = 0
        for result in results:
            since_pause += size_of(result)
            if since_pause > LIST_AT_ONCE_BYTES:
                since_pause = 0
                await asyncio.sleep(0)
            parts.append(in_list(result, Values(self._calls.bounds.max_evaluated_values)))
        return list_text(parts)

    async def _make_all(
        self, run: Run, call: Call, parts: list[Part], at_once: int
    ) -> list[Settled]:
        """So many at once. When one fails, those in flight finish and no other begins."""
        line = _Line(_left(run, call, parts))
        for element, result in _finished(run, call).items():
            line.take(element, result)
        workers = [
            asyncio.ensure_future(self._make_some(run, call, line))
            for _ in range(min(max(1, at_once), len(parts)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            await cut_off(workers)
        line.check()
        return line.endings

    async def _make_some(self, run: Run, call: Call, line: _Line) -> None:
        """Take one element after the other; whoever works beside takes from the same line."""
        for part in line.left:
            if line.stops:
                return
            ending = await self._calls.make(run, call, part)
            if ending is not None:
                line.endings.append(ending)
            else:
                line.take(part.element, _finished(run, call)[part.element])
            await asyncio.sleep(0)  # one that is not called has let nobody else go on


class _Line:
    """The elements that are left, how some ended the run, and why there can be no list."""

    def __init__(self, left: list[Part]) -> None:
        self.left = iter(left)
        self.endings: list[Settled] = []
        self._size = 0
        self._no_list: CannotEvaluate | None = None

    def take(self, element: int, result: StepResult) -> None:
        """Note the result for one element."""
        self._size += size_of(result)
        try:
            check_listable(result, element)
            check_size(self._size)
        except CannotEvaluate as fault:
            self._no_list = self._no_list or fault

    @property
    def stops(self) -> bool:
        """Whether no other element begins: one has failed, or the results fit into no list."""
        return bool(self.endings) or self._no_list is not None

    def check(self) -> None:
        """Raise CannotEvaluate where the results fit into no list."""
        if self._no_list is not None:
            raise self._no_list


def _is_skipped(call: Call, seen: Seen) -> bool:
    """Whether its WHEN says so for all elements. One that speaks of the item is asked for each."""
    when = None if call.terms is UNSET else call.terms.when
    return when is not None and not speaks_of_item(when) and not holds(when, seen)


def _parts(call: Call, each: Each, seen: Seen) -> list[Part]:
    """One request for each element. Raises CannotEvaluate."""
    found: list[Any] = seen.elements(each.over)
    if len(found) > MOST_ELEMENTS:
        raise CannotEvaluate(f"FOREACH goes over {MOST_ELEMENTS} elements at most, not"
                             f" {len(found)}")  # fmt: skip
    return [
        part_of_element(call, element, seen.with_item(item))
        for element, item in enumerate(found, start=1)
    ]


def _left(run: Run, call: Call, parts: list[Part]) -> list[Part]:
    """The elements to go. After a crash in a step that has failed: only those that had begun."""
    finished = _finished(run, call)
    names = {part.name for part in parts}
    failed = names.intersection(failed_for_good(run)) - {
        f"{call.number}.{element}" for element in finished
    }
    if failed:
        begun = failed | (run.in_doubt or set())
        return [part for part in parts if part.name in begun]
    return [part for part in parts if part.element not in finished]


def _finished(run: Run, call: Call) -> dict[int, StepResult]:
    return (run.elements or {}).get(call.number, {})
