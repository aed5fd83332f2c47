"""Computes which steps each step waits for in dataflow order. These are the arrows in a picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fractal_rm.domain.flow import Call, Step, SubFlow
from fractal_rm.domain.needs import is_barrier, needs


def predecessors(steps: Sequence[Step]) -> list[list[int]]:
    """Return, for each step, the indexes of the steps that it waits for directly."""
    indexes = {
        step.number: index for index, step in enumerate(steps) if isinstance(step, (Call, SubFlow))
    }
    earlier: list[int] = []  # for each step, a bit set of all steps that end before it begins
    direct: list[list[int]] = []
    barrier: int | None = None
    for index, step in enumerate(steps):
        if is_barrier(step):
            candidates = list(range(index))
        else:
            candidates = sorted(
                indexes[number] for number in needs(step) if indexes[number] < index
            )
            candidates += [] if barrier is None else [barrier]
        nearest = _direct_predecessors(candidates, earlier)
        direct.append(nearest)
        bits = sum(1 << each for each in nearest)
        earlier.append(bits | _union(earlier[each] for each in nearest))
        if is_barrier(step):
            barrier = index
    return direct


def layers(sources_of: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the indexes of the steps in each layer, the top layer first.

    Each step is one layer below the lowest of the steps that it waits for. ``sources_of`` is the
    result of `predecessors`.
    """
    depths: list[int] = []
    for sources in sources_of:
        depths.append(1 + max((depths[each] for each in sources), default=-1))
    layered: list[list[int]] = [[] for _ in range(max(depths, default=-1) + 1)]
    for index, depth in enumerate(depths):
        layered[depth].append(index)
    return layered


def _direct_predecessors(candidates: list[int], earlier: Sequence[int]) -> list[int]:
    """The candidates, without those that another candidate waits for."""
    implied = _union(earlier[each] for each in candidates)
    return [each for each in sorted(set(candidates)) if not implied >> each & 1]


def _union(sets: Iterable[int]) -> int:
    together = 0
    for each in sets:
        together |= each
    return together
