"""Computes which steps each step waits for in dataflow order: the arrows of the picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fractal_rm.domain.flow import Call, Step, SubFlow
from fractal_rm.domain.needs import is_barrier, needs


def predecessors(steps: Sequence[Step]) -> list[list[int]]:
    """For each step, the indexes of the steps that it waits for directly."""
    places = {step.number: at for at, step in enumerate(steps) if isinstance(step, (Call, SubFlow))}
    before: list[int] = []  # for each step, all steps that end before it begins, as bits
    direct: list[list[int]] = []
    barrier: int | None = None
    for at, step in enumerate(steps):
        if is_barrier(step):
            candidates = list(range(at))
        else:
            candidates = sorted(places[number] for number in needs(step) if places[number] < at)
            candidates += [] if barrier is None else [barrier]
        nearest = _direct_predecessors(candidates, before)
        direct.append(nearest)
        before.append(sum(1 << each for each in nearest) | _union(before[each] for each in nearest))
        if is_barrier(step):
            barrier = at
    return direct


def layers(before: Sequence[Sequence[int]]) -> list[list[int]]:
    """The indexes of steps in layers. Each step is one layer below the lowest step it waits for."""
    depth: list[int] = []
    for each in before:
        depth.append(1 + max((depth[at] for at in each), default=-1))
    layered: list[list[int]] = [[] for _ in range(max(depth, default=-1) + 1)]
    for at, level in enumerate(depth):
        layered[level].append(at)
    return layered


def _direct_predecessors(candidates: list[int], before: Sequence[int]) -> list[int]:
    """The candidates for which no other candidate waits."""
    implied = _union(before[each] for each in candidates)
    return [each for each in sorted(set(candidates)) if not implied >> each & 1]


def _union(sets: Iterable[int]) -> int:
    together = 0
    for each in sets:
        together |= each
    return together
