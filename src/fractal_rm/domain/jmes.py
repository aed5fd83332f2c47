"""JMESPaths, as `evaluate` picks with them: the library's interpreter, strict and bounded.

What it is kept from: numbers that no double holds, which it makes of texts and sums and JSON cannot
say (RFC 8259, 6); and work without bound, which would hold up every other run meanwhile. Loaded
when a flow has a path: a node without any stays small.
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

from fractal_rm.domain.flow_errors import NoJson
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import SPACE, check_json, read_json
from fractal_rm.domain.values import Values

TEXT_OF_A_VALUE = 256  # so many characters of a text take as long as a value
CALL_OF_A_FUNCTION = 5  # takes as long as so many values
_compact = json.JSONEncoder(separators=(",", ":")).encode
_NUMBER = re.compile(r"-?[0-9][0-9.eE+-]*")
_TAKE_EXPRESSIONS = frozenset({"map", "sort_by", "min_by", "max_by"})


class Path:
    """A JMESPath, ready to pick with; ``parsed`` is its tree.

    Raises NoJson, and what the library raises.
    """

    def __init__(self, text: str) -> None:
        self.parsed: dict[str, Any] = cast("Any", jmespath.compile(text)).parsed
        self._repeats = False
        for node in _nodes({"type": "root", "children": [self.parsed]}):
            self._repeats = self._repeats or node["type"].startswith("multi_select")
            _check_json(node.get("value"))
            if node.get("value") not in _TAKE_EXPRESSIONS:
                _check_values(node["children"])

    def pick(self, value: Any, values: Values) -> Any:
        """What it picks from a value. Raises TooManyValues, and what the library raises."""
        interpreter = _Interpreter(values)
        found = interpreter.visit(self.parsed, value)
        if self._repeats:  # then what it comes to may be far more than what it was picked from
            _take_all(found, values)
        return found


class _Interpreter(TreeInterpreter):
    def __init__(self, values: Values) -> None:
        super().__init__(Options(custom_functions=_Functions(values)))
        self._take = values.take

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._take(1)
        return super().visit(node, *args, **kwargs)


class _Functions(Functions):
    def __init__(self, values: Values) -> None:
        self._values = values
        self._take = values.take

    def _take_inner(self, value: Any) -> None:
        """Count what a function goes through in what it is given."""
        if isinstance(value, str):
            self._take(len(value) // TEXT_OF_A_VALUE)
        elif isinstance(value, (list, dict)):
            self._take(len(cast("list[Any]", value)))

    @signature({"types": ["string"]}, {"types": ["array-string"]})
    def _func_join(self, separator: str, array: list[str]) -> str:
        """Counted before it is made: a separator may be as long as a payload."""
        length = len(separator) * len(array) + sum(map(len, array))
        self._take(length // TEXT_OF_A_VALUE)
        return separator.join(array)

    @signature({"types": []})
    def _func_to_string(self, arg: Any) -> Any:
        _take_all(arg, self._values)
        return arg if isinstance(arg, str) else _compact(arg)

    def call_function(self, function_name: str, resolved_args: Iterable[Any]) -> Any:
        self._take(CALL_OF_A_FUNCTION)
        for each in resolved_args:
            self._take_inner(each)
        return super().call_function(function_name, resolved_args)

    @signature({"types": []})
    def _func_to_number(self, arg: Any) -> Any:
        """The number that a text is in JSON, and null where it is none."""
        if isinstance(arg, str):
            try:
                text = arg.strip(SPACE)
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


def _take_all(value: Any, values: Values) -> None:
    """Count every value within a value, as often as it stands there, and what texts are long."""
    waiting: list[Any] = [value]
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, str):
            values.take(len(inner) // TEXT_OF_A_VALUE)
        elif isinstance(inner, dict):
            waiting.append([*cast("dict[str, Any]", inner).values()])
        elif isinstance(inner, list):
            found = cast("list[Any]", inner)
            values.take(len(found))
            waiting += found


def _finite(number: Any) -> Any:
    if not math.isfinite(number):
        raise ValueError("it comes to a number that is too large for a double")
    return number


def _check_json(value: Any) -> None:
    """Raise NoJson unless JSON can say what stands in a path: the library takes NaN and 1e999."""
    try:
        check_json(json.dumps(value).encode())
    except (Malformed, ValueError) as error:
        raise NoJson(f"a value in this path is none of JSON: {error}") from None


def _check_values(nodes: list[Any]) -> None:
    """Raise NoJson where an expression (``&a``) stands in the place of a value."""
    inner = [cast("dict[str, Any]", node) for node in nodes if isinstance(node, dict)]
    if any(node["type"] == "expref" for node in inner):
        raise NoJson("& stands only in what map, sort_by, min_by and max_by take")


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):  # the bounds of a slice stand among the nodes
            found = cast("dict[str, Any]", node)
            yield found
            waiting += found["children"]
