"""Evaluate the conditions of WHEN and EXPECT. Plain functions, without I/O or a clock."""

from __future__ import annotations

from collections.abc import Callable
from operator import ge, gt, le, lt
from typing import Any

from fractal_rm.domain.evaluate import evaluate
from fractal_rm.domain.evaluation_context import EvaluationContext, is_list, kind_of
from fractal_rm.domain.expression import (
    AllOf,
    AnyOf,
    Compare,
    Comparison,
    Expression,
    Not,
    Result,
)
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.json_equal import json_equal
from fractal_rm.domain.value_budget import ValueBudget

_ORDERS: dict[Comparison, Callable[[Any, Any], bool]] = {
    Comparison.LESS: lt,
    Comparison.AT_MOST: le,
    Comparison.GREATER: gt,
    Comparison.AT_LEAST: ge,
}


def is_true(condition: Expression, context: EvaluationContext) -> bool:
    """Whether a condition is true. Raises CannotEvaluate if it is neither true nor false."""
    if isinstance(condition, AllOf):
        return all(is_true(part, context) for part in condition.parts)
    if isinstance(condition, AnyOf):
        return any(is_true(part, context) for part in condition.parts)
    if isinstance(condition, Not):
        return not is_true(condition.part, context)
    value = _value_of(condition, context)
    if not isinstance(value, bool):
        raise CannotEvaluate(f"a condition must be true or false, and this is {kind_of(value)}")
    return value


def _value_of(part: Expression, context: EvaluationContext) -> Any:
    if isinstance(part, Compare):
        left, right = _value_of(part.left, context), _value_of(part.right, context)
        return _compare(part.operator, left, right, context.comparison_budget)
    if isinstance(part, (AllOf, AnyOf, Not)):
        return is_true(part, context)
    # A result may be bytes, which `evaluate` refuses. Bytes are equal only to the same bytes.
    data = context.bytes_of(part) if isinstance(part, Result) else None
    return evaluate(part, context) if data is None else data


def _compare(operator: Comparison, left: Any, right: Any, values: ValueBudget) -> bool:
    try:
        if operator is Comparison.EQUAL:
            return json_equal(left, right, values)
        if operator is Comparison.UNEQUAL:
            return not json_equal(left, right, values)
        if operator is Comparison.IN:
            return _contains(right, left, values)
    except RecursionError:
        raise CannotEvaluate("a value is nested too deeply to be compared") from None
    kind = kind_of(left)
    if kind != kind_of(right) or kind not in ("a number", "a text"):
        raise CannotEvaluate(f"{operator.value} compares two numbers or two texts,"
                             f" not {kind} and {kind_of(right)}")  # fmt: skip
    return _ORDERS[operator](left, right)


def _contains(container: Any, part: Any, values: ValueBudget) -> bool:
    if is_list(container):
        values.take(len(container))
        return any(json_equal(each, part, values) for each in container)
    if isinstance(container, str) and isinstance(part, str):
        return part in container
    raise CannotEvaluate(f"in needs a list on the right, or two texts,"
                         f" not {kind_of(part)} in {kind_of(container)}")  # fmt: skip
