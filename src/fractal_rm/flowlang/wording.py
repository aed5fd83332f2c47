"""Writes references, templates and conditions as text of the flow language.

From this text, the module `expression` makes the same value again.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

from fractal_rm.domain.expression import (
    AllOf,
    AnyOf,
    Base64,
    Compare,
    Expression,
    Header,
    Item,
    ListOf,
    Literal,
    Not,
    ObjectOf,
    Payload,
    Piece,
    Reference,
    Result,
    Status,
)
from fractal_rm.domain.flow import Call, CallOptions, Content, Flow, SubFlow
from fractal_rm.flowlang.scope import BASE64

_BARE_PATH = re.compile(r"(?:[A-Za-z_]\w*)(?:\.[A-Za-z_]\w*|\[[0-9]+\])*", re.ASCII)
_NEEDS_QUOTES = re.compile(r'[\s"]|^#')
ResultNames = Mapping[int, str]  # the names by call number


def result_names(flow: Flow) -> dict[int, str]:
    """The names that AS gives to results of steps, by call number."""
    names: dict[int, str] = {}
    for step in flow.steps:
        if isinstance(step, SubFlow) and step.name:
            names[step.number] = step.name
        elif isinstance(step, Call) and isinstance(step.options, CallOptions) and step.options.name:
            names[step.number] = step.options.name
    return names


class TextWriter:
    """Writes expressions as text. A result that is not in ``names`` is written as ``resultN``."""

    def __init__(self, names: ResultNames) -> None:
        self._names = names

    def call(self, number: int) -> str:
        """The name of a call's result."""
        return self._names.get(number, f"result{number}")

    def reference(self, value: Reference) -> str:
        """A reference, such as ``payload``, ``photo.box`` or ``item."a b"``."""
        if isinstance(value, Result):
            name = self.call(value.number)
        else:
            name = "item" if isinstance(value, Item) else "payload"
        if not value.path:
            return name
        path = value.path if _BARE_PATH.fullmatch(value.path) else _json(value.path)
        return f"{name}.{path}"

    def items(self, values: Iterable[Piece]) -> str:
        """The items of a content, separated by spaces."""
        return " ".join(map(self.expression, values))

    def content(self, content: Content) -> str:
        """A content, as it is written after the keyword and the target of an instruction."""
        if content.json is not None:
            return f"JSON {self.expression(content.json)}"
        if content.raw is not None:
            return f"RAW {self.reference(content.raw)}"
        return self.items(content.items)

    def expression(self, value: Expression) -> str:
        """A template or a condition."""
        if isinstance(value, (Compare, AllOf, AnyOf, Not)):
            return self._condition(value)
        if isinstance(value, (Payload, Result, Item)):
            return self.reference(value)
        if isinstance(value, Base64):
            return f"{BASE64}({self.reference(value.of)})"
        if isinstance(value, (Status, Header)):
            return self._call_function(value)
        return self._template(value)

    def _call_function(self, value: Status | Header) -> str:
        call = self.call(value.number)
        if isinstance(value, Status):
            return f"status({call})"
        return f"header({call}, {_json(value.name)})"

    def _template(self, value: Literal | ListOf | ObjectOf) -> str:
        if isinstance(value, Literal):
            return _json(value.value)
        if isinstance(value, ListOf):
            return f"[{', '.join(map(self.expression, value.values))}]"
        fields = (f"{_json(key)}: {self.expression(each)}" for key, each in value.fields)
        return f"{{{', '.join(fields)}}}"

    def _condition(self, value: Compare | AllOf | AnyOf | Not) -> str:
        if isinstance(value, Compare):
            left, right = self._operand(value.left), self._operand(value.right)
            return f"{left} {value.operator.value} {right}"
        if isinstance(value, Not):
            return f"not {self._part_text(value.part, Not, AllOf, AnyOf)}"
        if isinstance(value, AllOf):
            return " and ".join(self._part_text(part, AnyOf, AllOf) for part in value.parts)
        return " or ".join(self._part_text(part, AnyOf) for part in value.parts)

    def _operand(self, value: Expression) -> str:
        return self._part_text(value, Compare, AllOf, AnyOf, Not)

    def _part_text(self, value: Expression, *with_parentheses: type) -> str:
        """A part of a condition, in parentheses if its type is in ``with_parentheses``."""
        text = self.expression(value)
        return f"({text})" if isinstance(value, with_parentheses) else text


def topic_word(topic: str) -> str:
    """A topic as it is written after ON or PUBLISH, in quotes if necessary."""
    return _json(topic) if _NEEDS_QUOTES.search(topic) else topic


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
