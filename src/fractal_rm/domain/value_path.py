"""Evaluate JMESPath expressions with the library `jmespath`, with strict numbers and bounded work.

The library can compute numbers that are too large for a double, which JSON cannot contain (RFC
8259, 6). Here such a number is an error. An expression can also need unbounded time, which would
block all other runs. So each value that the library reads is counted.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Iterator
from typing import Any, cast

import jmespath
from jmespath.functions import Functions, signature
from jmespath.visitor import Options, TreeInterpreter

from fractal_rm.domain.flow_errors import NotJson
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import WHITE_SPACE, check_json, read_json
from fractal_rm.domain.value_budget import ValueBudget

CHARACTERS_PER_VALUE = 256  # reading this many characters takes as long as reading a value
VALUES_PER_FUNCTION_CALL = 5  # a function call takes as long as reading this many values
_compact = json.JSONEncoder(separators=(",", ":")).encode
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]*")
_FUNCTIONS_OF_EXPRESSIONS = frozenset({"map", "sort_by", "min_by", "max_by"})


class ValuePath:
    """A compiled JMESPath. ``parsed`` is its syntax tree.

    ``known_functions`` are the names of all functions. The constructor raises NotJson, or an error
    of the library, if the path is not valid.
    """

    known_functions = frozenset(cast("dict[str, object]", Functions.FUNCTION_TABLE))

    def __init__(self, text: str) -> None:
        self.parsed: dict[str, Any] = cast("Any", jmespath.compile(text)).parsed
        self._may_repeat = False
        for node in _nodes({"type": "root", "children": [self.parsed]}):
            self._may_repeat = self._may_repeat or node["type"].startswith("multi_select")
            _check_json(node.get("value"))
            if node.get("value") not in _FUNCTIONS_OF_EXPRESSIONS:
                _check_no_expression(node["children"])

    def pick(self, value: Any, budget: ValueBudget) -> Any:
        """Apply the path to a value. Raises TooManyValues, or an error of the library."""
        interpreter = _Interpreter(budget)
        result = interpreter.visit(self.parsed, value)
        if self._may_repeat:  # the output may be far larger than the input
            _take_all(result, budget)
        return result


class _Interpreter(TreeInterpreter):
    def __init__(self, budget: ValueBudget) -> None:
        super().__init__(Options(custom_functions=_Functions(budget)))
        self._take = budget.take

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._take(1)
        return super().visit(node, *args, **kwargs)


class _Functions(Functions):
    def __init__(self, budget: ValueBudget) -> None:
        self._budget = budget
        self._take = budget.take

    def _take_argument(self, value: Any) -> None:
        """Count the values that a function reads when it iterates over an argument."""
        if isinstance(value, str):
            self._take(len(value) // CHARACTERS_PER_VALUE)
        elif isinstance(value, (list, dict)):
            self._take(len(cast("list[Any]", value)))

    @signature({"types": ["string"]}, {"types": ["array-string"]})
    def _func_join(self, separator: str, array: list[str]) -> str:
        """Count the length of the result before it is made: the separator may be a long text."""
        length = len(separator) * len(array) + sum(map(len, array))
        self._take(length // CHARACTERS_PER_VALUE)
        return separator.join(array)

    @signature({"types": []})
    def _func_to_string(self, arg: Any) -> Any:
        _take_all(arg, self._budget)
        return arg if isinstance(arg, str) else _compact(arg)

    def call_function(self, function_name: str, resolved_args: Iterable[Any]) -> Any:
        self._take(VALUES_PER_FUNCTION_CALL)
        for each in resolved_args:
            self._take_argument(each)
        return super().call_function(function_name, resolved_args)

    @signature({"types": []})
    def _func_to_number(self, arg: Any) -> Any:
        """Parse a text as a JSON number. The result is null if the text is not a number."""
        if isinstance(arg, str):
            try:
                text = arg.strip(WHITE_SPACE)
                arg = read_json(text.encode()) if _NUMBER.fullmatch(text) else None
            except Malformed:
                return None
        is_number = isinstance(arg, (int, float)) and not isinstance(arg, bool)
        return arg if is_number else None

    @signature({"types": ["array-number"]})
    def _func_sum(self, arg: list[Any]) -> Any:
        return _finite(sum(arg))

    @signature({"types": ["array-number"]})
    def _func_avg(self, arg: list[Any]) -> Any:
        return _finite(sum(arg)) / len(arg) if arg else None


def _take_all(value: Any, budget: ValueBudget) -> None:
    """Count all values in a value, and the length of texts. A repeated value counts each time."""
    pending: list[Any] = [value]
    while pending:
        inner = pending.pop()
        if isinstance(inner, str):
            budget.take(len(inner) // CHARACTERS_PER_VALUE)
        elif isinstance(inner, dict):
            pending.append([*cast("dict[str, Any]", inner).values()])
        elif isinstance(inner, list):
            elements = cast("list[Any]", inner)
            budget.take(len(elements))
            pending += elements


def _finite(number: Any) -> Any:
    if not math.isfinite(number):
        raise ValueError("the result is too large for a double")
    return number


def _check_json(value: Any) -> None:
    """Raise NotJson if a literal in a path is not JSON. The library accepts NaN and 1e999."""
    try:
        check_json(json.dumps(value).encode())
    except (Malformed, ValueError) as error:
        raise NotJson(f"a literal in this path is not JSON: {error}") from None


def _check_no_expression(nodes: list[Any]) -> None:
    """Raise NotJson if an expression reference (``&a``) is used as a value."""
    inner = [cast("dict[str, Any]", node) for node in nodes if isinstance(node, dict)]
    if any(node["type"] == "expref" for node in inner):
        raise NotJson("& can only be used in the arguments of map, sort_by, min_by and max_by")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    pending: list[Any] = [tree]
    while pending:
        node = pending.pop()
        if isinstance(node, dict):  # other children are numbers: the bounds of a slice
            typed_node = cast("dict[str, Any]", node)
            yield typed_node
            pending += typed_node["children"]
