"""Computes which results a step needs, and which steps of a flow may begin."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from collections.abc import Set as AbstractSet

import msgspec

from fractal_rm.domain.expression import Header, Item, Payload, Result, Status
from fractal_rm.domain.flow import Call, Publish, Reply, Step, SubFlow, Wait


def needs(step: Step) -> frozenset[int]:
    """The numbers of the other steps whose results, statuses or headers a step uses."""
    own_number = step.number if isinstance(step, (Call, SubFlow)) else 0
    return frozenset(_numbers(step)) - {own_number}


def uses_item(value: object) -> bool:
    """Whether a condition, a template or a reference uses ``item``."""
    return any(isinstance(part, Item) for part in parts_of(value))


def payload_paths(steps: Sequence[Step]) -> list[str]:
    """The fields of the payload that steps use, such as ``part.id``, each once, in order.

    ``""`` is the whole payload.
    """
    paths = (part.path for part in parts_of(steps) if isinstance(part, Payload))
    return list(dict.fromkeys(paths))


def is_barrier(step: Step) -> bool:
    """Whether a step waits for all earlier steps, and all later steps wait for it."""
    match step:
        case Wait() | Reply():
            return True
        case Publish():
            return not needs(step)
        case Call() | SubFlow():
            return False


class DataflowPlan:
    """Decides which steps of a flow with ORDER dataflow may begin."""

    def __init__(self, steps: Sequence[Step]) -> None:
        self._steps = [(needs(step), is_barrier(step)) for step in steps]

    def ready_positions(self, ended: Container[int], results: AbstractSet[int]) -> list[int]:
        """The positions of the steps that may begin, and of those that have begun and not ended.

        ``ended`` has the positions of the steps that have ended. ``results`` has the numbers of the
        steps that have a result.
        """
        ready: list[int] = []
        all_earlier_ended = True
        for position, (needed_results, barrier) in enumerate(self._steps):
            if position in ended:
                continue
            if barrier:
                return [*ready, position] if all_earlier_ended else ready
            if needed_results <= results:
                ready.append(position)
            all_earlier_ended = False
        return ready


def _numbers(value: object) -> Iterator[int]:
    for part in parts_of(value):
        if isinstance(part, (Result, Status, Header)):
            yield part.number


def parts_of(value: object) -> Iterator[object]:
    """Yield a value, and all values inside it."""
    yield value
    if isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from parts_of(getattr(value, field))
    elif isinstance(value, tuple):
        for each in value:  # pyright: ignore[reportUnknownVariableType]
            yield from parts_of(each)  # pyright: ignore[reportUnknownArgumentType]
