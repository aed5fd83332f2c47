"""JMESPaths, as `evaluate` picks with them: the library's interpreter, strict and bounded.

What it is kept from: numbers that no double holds, which it makes of texts and sums and JSON cannot
say (RFC 8259, 6); and work without bound, which would hold up every other run meanwhile. Loaded
when a flow has a path: a node without any stays small.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from typing import Any, cast

import jmespath
from jmespath.functions import Functions, signature
from jmespath.visitor import Options, TreeInterpreter

from fractal_rm.domain.errors import Malformed, NoJson
from fractal_rm.domain.strict_json import check_json, read_json

# Values that one path may look at; each takes about half a microsecond (docs/decisions).
MOST_STEPS = 50_000


class TooMuch(Exception):
    """A path looks at more values than it may."""

    def __init__(self) -> None:
        super().__init__(f"it looks at more than {MOST_STEPS:,} values: pick from fewer")


class Path:
    """A JMESPath, ready to pick with; ``parsed`` is its tree.

    Raises NoJson, and what the library raises.
    """

    def __init__(self, text: str) -> None:
        self.parsed: dict[str, Any] = cast("Any", jmespath.compile(text)).parsed
        self._repeats = False
        for node in _nodes(self.parsed):
            self._repeats = self._repeats or node["type"].startswith("multi_select")
            _check_json(node.get("value"))

    def pick(self, value: Any) -> Any:
        """What it picks from a value. Raises TooMuch, and what the library raises."""
        interpreter = _Interpreter()
        found = interpreter.visit(self.parsed, value)
        if self._repeats:  # then what it comes to may be far more than what it was picked from
            interpreter.count(found)
        return found


class _Interpreter(TreeInterpreter):
    def __init__(self) -> None:
        super().__init__(Options(custom_functions=_Functions(self)))
        self._left = MOST_STEPS

    def visit(self, node: Any, *args: Any, **kwargs: Any) -> Any:
        self._left -= 1
        if self._left < 0:
            raise TooMuch
        return super().visit(node, *args, **kwargs)

    def take(self, steps: int) -> None:
        """Count the steps of something that takes many at once."""
        self._left -= steps
        if self._left < 0:
            raise TooMuch

    def count(self, value: Any) -> None:
        """Count every value within a value, as often as it stands there."""
        waiting: list[Any] = [value]
        while waiting:
            inner = waiting.pop()
            if isinstance(inner, dict):
                inner = [*cast("dict[str, Any]", inner).values()]
            if isinstance(inner, list):
                found = cast("list[Any]", inner)
                self.take(len(found))
                waiting += found


class _Functions(Functions):
    def __init__(self, interpreter: _Interpreter) -> None:
        self._interpreter = interpreter

    def call_function(self, function_name: str, resolved_args: Iterable[Any]) -> Any:
        lists = [cast("list[Any]", each) for each in resolved_args if isinstance(each, list)]
        self._interpreter.take(sum(map(len, lists)))
        return super().call_function(function_name, resolved_args)

    @signature({"types": []})
    def _func_to_number(self, arg: Any) -> Any:
        """The number that a text is in JSON, and null where it is none."""
        if isinstance(arg, str):
            try:
                arg = read_json(arg.encode())
            except (Malformed, UnicodeEncodeError):
                return None
        is_number = isinstance(arg, (int, float)) and not isinstance(arg, bool)
        return arg if is_number else None

    @signature({"types": ["array-number"]})
    def _func_sum(self, arg: list[Any]) -> Any:
        return _finite(sum(arg))

    @signature({"types": ["array-number"]})
    def _func_avg(self, arg: list[Any]) -> Any:
        return _finite(sum(arg)) / len(arg) if arg else None


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


def _nodes(tree: Any) -> Iterator[dict[str, Any]]:
    waiting: list[Any] = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):  # the bounds of a slice stand among the nodes
            found = cast("dict[str, Any]", node)
            yield found
            waiting += found["children"]
