"""Which calls a step needs the answers of."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from fractal_rm.domain.expression import Header, Result, Status
from fractal_rm.domain.flow import Call, Step, SubFlow


def needs(step: Step) -> frozenset[int]:
    """The numbers of the calls that a step refers to, wherever it does; not its own."""
    own = step.number if isinstance(step, (Call, SubFlow)) else 0
    return frozenset(_numbers(step)) - {own}


def _numbers(value: object) -> Iterator[int]:
    if isinstance(value, (Result, Status, Header)):
        yield value.number
    elif isinstance(value, msgspec.Struct):
        for field in value.__struct_fields__:
            yield from _numbers(getattr(value, field))
    elif isinstance(value, tuple):
        for each in value:  # pyright: ignore[reportUnknownVariableType]
            yield from _numbers(each)  # pyright: ignore[reportUnknownArgumentType]
