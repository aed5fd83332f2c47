"""What a condition comes to whatever happens."""

from __future__ import annotations

from fractal_rm.domain.condition import holds
from fractal_rm.domain.expression import AllOf, AnyOf, Compare, Expression, Literal, Not
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.result import NULL
from fractal_rm.domain.seen import Seen


def always(condition: Expression | None) -> bool | None:
    """True or False where a condition always comes to that, None where it depends.

    No condition is always true.
    """
    if condition is None:
        return True
    if isinstance(condition, Not):
        inner = always(condition.part)
        return None if inner is None else not inner
    if isinstance(condition, (AllOf, AnyOf)):
        return _joined([always(part) for part in condition.parts], isinstance(condition, AnyOf))
    return _of_constants(condition)


def _joined(parts: list[bool | None], ends_it: bool) -> bool | None:
    """Parts of which one that comes to ``ends_it`` decides about all."""
    if ends_it in parts:
        return ends_it
    return None if None in parts else not ends_it


def _of_constants(condition: Expression) -> bool | None:
    if isinstance(condition, Literal):
        return condition.value if isinstance(condition.value, bool) else None
    if not (isinstance(condition, Compare) and _are_constants(condition.left, condition.right)):
        return None
    try:
        return holds(condition, Seen(NULL, {}, {}))
    except CannotEvaluate:
        return None


def _are_constants(*sides: Expression) -> bool:
    return all(isinstance(side, Literal) for side in sides)


def parts_of(condition: Expression | None) -> list[Expression]:
    """All that holds where a condition does: itself, and what it joins by ``and``."""
    if condition is None:
        return []
    return [condition, *(condition.parts if isinstance(condition, AllOf) else ())]
