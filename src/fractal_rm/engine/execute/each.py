"""FOREACH: a call is made once for each element of a list."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.domain.body import SKIPPED, list_text
from fractal_rm.domain.errors import CannotEvaluate
from fractal_rm.domain.evaluate import check_size, holds
from fractal_rm.domain.flow import Call, Each
from fractal_rm.domain.needs import speaks_of_item
from fractal_rm.domain.run import Finished, Run, Settled
from fractal_rm.engine.execute.calls import Calls
from fractal_rm.engine.execute.together import cut_off, worst
from fractal_rm.engine.execute.tries import failed_for_good
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.request import Part, part_of_element, seen_by
from fractal_rm.engine.waiting_room import WaitingRoom

MOST_ELEMENTS = 10_000


class ForEach:
    """Goes on after the elements that are finished; their results wait in the run for the list."""

    def __init__(self, calls: Calls, runs: OpenRuns, room: WaitingRoom) -> None:
        self._calls = calls
        self._runs = runs
        self._room = room

    async def make(self, run: Run, call: Call, each: Each) -> Settled | None:
        """Make the call for each element. None: it has its list; otherwise how the run ends."""
        try:
            if _is_skipped(run, call):
                return self._calls.put(run, call, SKIPPED)
            parts = _parts(run, call, each)
        except CannotEvaluate as fault:
            return self._calls.fail(run, call, str(fault))
        endings = await self._make_all(run, call, parts, each.at_once)
        if endings:
            return worst(endings)
        try:
            self._finish(run, call, len(parts))
        except CannotEvaluate as fault:
            return self._calls.fail(run, call, str(fault))
        return None

    async def _make_all(
        self, run: Run, call: Call, parts: list[Part], at_once: int
    ) -> list[Settled]:
        """So many at once. When one fails, those in flight finish and no other begins."""
        left = iter(_left(run, call, parts))
        endings: list[Settled] = []
        if at_once <= 1:
            await self._make_some(run, call, left, endings)
            return endings
        workers = [
            asyncio.ensure_future(self._make_some(run, call, left, endings))
            for _ in range(min(at_once, len(parts)))
        ]
        try:
            await asyncio.gather(*workers)
        finally:
            await cut_off(workers)
        return endings

    async def _make_some(
        self, run: Run, call: Call, left: Iterator[Part], endings: list[Settled]
    ) -> None:
        """Take one element after the other; whoever works beside takes from the same line."""
        for part in left:
            ending = await self._calls.make(run, call, part) or self._too_much(run, call)
            if ending is not None:
                endings.append(ending)
            if endings:
                return

    def _too_much(self, run: Run, call: Call) -> Settled | None:
        """Results that would not fit into one list end the step before they fill the memory."""
        try:
            check_size(sum(len(memoryview(r)) for r in _finished(run, call).values()))
        except CannotEvaluate as fault:
            return self._calls.fail(run, call, str(fault))
        return None

    def _finish(self, run: Run, call: Call, count: int) -> None:
        finished = _finished(run, call)
        results = [finished[element] for element in range(1, count + 1)]
        result = list_text(results)
        kept = sum(len(memoryview(each)) for each in results)
        self._room.hold_result(len(memoryview(result)) - kept)
        _ = self._runs.write(run, Finished(call.number, 0, 0, result))


def _is_skipped(run: Run, call: Call) -> bool:
    """Whether its WHEN says so for all elements. One that speaks of the item is asked for each."""
    when = None if call.terms is UNSET else call.terms.when
    return when is not None and not speaks_of_item(when) and not holds(when, seen_by(run))


def _parts(run: Run, call: Call, each: Each) -> list[Part]:
    """One request for each element. Raises CannotEvaluate."""
    seen = seen_by(run)
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


def _finished(run: Run, call: Call) -> dict[int, msgspec.Raw]:
    return (run.elements or {}).get(call.number, {})
