"""Equality of JSON values. At any depth, 1 equals 1.0, and true does not equal 1."""

from __future__ import annotations

from typing import Any, cast

from fractal_rm.domain.value_budget import ValueBudget


def json_equal(left: Any, right: Any, values: ValueBudget | None = None) -> bool:
    """Whether two JSON values are equal.

    ``values`` is a budget for the number of compared elements. Raises TooManyValues if the budget
    is too small, and RecursionError if the values have too many levels.
    """
    if isinstance(left, list) and isinstance(right, list):
        left_list, right_list = cast("list[Any]", left), cast("list[Any]", right)
        if len(left_list) != len(right_list):
            return False
        if values is not None:
            values.take(len(left_list))
        pairs = zip(left_list, right_list, strict=True)
        return all(json_equal(a, b, values) for a, b in pairs)
    if isinstance(left, dict) and isinstance(right, dict):
        left_object, right_object = cast("dict[str, Any]", left), cast("dict[str, Any]", right)
        if values is not None:
            values.take(len(left_object))
        return left_object.keys() == right_object.keys() and all(
            json_equal(left_object[key], right_object[key], values) for key in left_object
        )
    return isinstance(left, bool) == isinstance(right, bool) and left == right


def canonical(value: Any) -> Any:
    """The same value, with an ``int`` in place of each float that is a whole number.

    Equal values have canonical forms with the same JSON text, if keys are sorted.
    """
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [canonical(each) for each in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: canonical(each) for key, each in cast("dict[str, Any]", value).items()}
    return value
