"""Finds conditions whose result does not depend on the run."""

from __future__ import annotations

from fractal_rm.domain.condition import is_true
from fractal_rm.domain.evaluation_context import EvaluationContext
from fractal_rm.domain.expression import AllOf, AnyOf, Compare, Expression, Literal, Not
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.result import NULL


def constant_result(condition: Expression | None) -> bool | None:
    """The result of a condition, if it is the same for all runs. Otherwise None.

    If there is no condition, the result is True.
    """
    if condition is None:
        return True
    if isinstance(condition, Not):
        inner = constant_result(condition.part)
        return None if inner is None else not inner
    if isinstance(condition, (AllOf, AnyOf)):
        return _joint_result(
            [constant_result(part) for part in condition.parts], isinstance(condition, AnyOf)
        )
    return _literal_result(condition)


def _joint_result(parts: list[bool | None], deciding: bool) -> bool | None:
    """The result of conditions that are joined by ``and`` or ``or``. None if it is not constant.

    ``deciding`` is False for ``and``, and True for ``or``: a part with this result decides.
    """
    if deciding in parts:
        return deciding
    return None if None in parts else not deciding


def _literal_result(condition: Expression) -> bool | None:
    if isinstance(condition, Literal):
        return condition.value if isinstance(condition.value, bool) else None
    if not (isinstance(condition, Compare) and _are_literals(condition.left, condition.right)):
        return None
    try:
        return is_true(condition, EvaluationContext(NULL, {}, {}))
    except CannotEvaluate:
        return None


def _are_literals(*sides: Expression) -> bool:
    return all(isinstance(side, Literal) for side in sides)


def parts_of(condition: Expression | None) -> list[Expression]:
    """The conditions that must be true for ``condition`` to be true.

    They are ``condition`` itself and, if it is an ``and``, its parts. Returns an empty list for
    None.
    """
    if condition is None:
        return []
    parts = condition.parts if isinstance(condition, AllOf) else ()
    return [condition, *parts]
