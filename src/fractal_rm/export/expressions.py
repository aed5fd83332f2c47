"""Writes values and conditions of a flow as runtime expressions of Arazzo."""

from __future__ import annotations

import re
from typing import Any, cast

from fractal_rm.domain.expression import (
    AllOf,
    AnyOf,
    Compare,
    Comparison,
    Expression,
    Header,
    ListOf,
    Literal,
    Not,
    ObjectOf,
    Payload,
    Result,
    Status,
    Value,
)
from fractal_rm.domain.flow import Content, Flow, SubFlow
from fractal_rm.export.openapi import Document, to_identifier, unused_name
from fractal_rm.flowlang.wording import TextWriter, result_names

# Paths that can also be written as a JSON pointer.
_POINTER_PATH = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[[0-9]+\])*", re.ASCII)


class NotExpressible(Exception):
    """Arazzo has no expression for a value or a condition."""


class Expressions:
    """Writes the expressions of one workflow, and collects the inputs and outputs that they use.

    ``inputs`` has the inputs of the workflow by name. For each step number, ``outputs`` has the
    expressions of the step's outputs by name. ``wording`` writes expressions as in flows.conf.
    """

    def __init__(self, flow: Flow) -> None:
        self._names = result_names(flow)
        self._input_of_path: dict[str, str] = {}
        self._sub_flows = {step.number for step in flow.steps if isinstance(step, SubFlow)}
        self.wording = TextWriter(self._names)
        self.inputs: dict[str, Document] = {
            "payload": {"description": "the payload of the trigger"}
        }
        self.outputs: dict[int, dict[str, str]] = {}

    def step_id(self, number: int) -> str:
        """The id of a step: its AS name, or ``call-`` and its number."""
        return self._names.get(number, f"call-{number}")

    # --- values ---------------------------------------------------------------------------------

    def content(self, content: Content) -> tuple[Any, bool]:
        """Return the content, and whether Arazzo can express all of it.

        The content is one value, a list of values, or None if there are no items.
        """
        if content.json is not None:
            return self.value(content.json)
        if content.raw is not None:
            return self.value(content.raw)
        pairs = [self.value(item) for item in content.items]
        values = [value for value, _ in pairs]
        complete = all(complete for _, complete in pairs)
        if len(values) == 1:
            return values[0], complete
        return values or None, complete

    def value(self, value: Value) -> tuple[Any, bool]:
        """Return the value, and whether Arazzo can express all of it.

        A part that Arazzo cannot express is replaced by its text in flows.conf.
        """
        if isinstance(value, ListOf):
            pairs = [self.value(each) for each in value.values]
            return [each for each, _ in pairs], all(complete for _, complete in pairs)
        if isinstance(value, ObjectOf):
            fields = {key: self.value(each) for key, each in value.fields}
            values = {key: each for key, (each, _) in fields.items()}
            return values, all(complete for _, complete in fields.values())
        try:
            return self.expression(value), True
        except NotExpressible:
            return self.wording.expression(value), False

    def expression(self, value: Expression, own_step: int = 0) -> Any:
        """Return a literal, or a runtime expression of Arazzo. Raises NotExpressible.

        ``own_step`` is the number of the step whose own response the expression may use, or 0.
        """
        if isinstance(value, Literal):
            return value.value
        if isinstance(value, Payload):
            return f"$inputs.{self._input(value.path)}"
        if isinstance(value, Result):
            is_from_flow = value.number in self._sub_flows
            name, part = _result_output(value, is_from_flow=is_from_flow)
            return self._response_part(value.number, own_step, name, part)
        if isinstance(value, Status):
            return self._response_part(value.number, own_step, "status", "$statusCode")
        if isinstance(value, Header):
            name = f"header-{to_identifier(value.name)}"
            part = f"$response.header.{value.name}"
            return self._response_part(value.number, own_step, name, part)
        raise NotExpressible

    def _input(self, path: str) -> str:
        if not path:
            return "payload"
        if path not in self._input_of_path:
            name = unused_name(f"payload-{to_identifier(path).strip('-')}", self.inputs)
            self._input_of_path[path] = name
            reference = self.wording.reference(Payload(path))
            self.inputs[name] = {"description": reference, "x-fractal-from": reference}
        return self._input_of_path[path]

    def _response_part(self, number: int, own_step: int, name: str, expression: str) -> str:
        """Return the expression for a part of the response to step ``number``.

        If ``number`` is not ``own_step``, the part becomes an output of step ``number``.
        """
        if number == own_step:
            return expression
        outputs = self.outputs.setdefault(number, {})
        for used_name, used_expression in outputs.items():
            if used_expression == expression:
                return f"$steps.{self.step_id(number)}.outputs.{used_name}"
        name = unused_name(name, outputs)
        outputs[name] = expression
        return f"$steps.{self.step_id(number)}.outputs.{name}"

    # --- conditions -----------------------------------------------------------------------------

    def condition(self, value: Expression, own_step: int) -> str:
        """Return the condition in the syntax of Arazzo. Raises NotExpressible."""
        if isinstance(value, Compare):
            return self._comparison(value, own_step)
        if isinstance(value, Not):
            return f"!({self.condition(value.part, own_step)})"
        if isinstance(value, (AllOf, AnyOf)):
            sign = " && " if isinstance(value, AllOf) else " || "
            return sign.join(f"({self.condition(part, own_step)})" for part in value.parts)
        return _condition_literal(self.expression(value, own_step), value)

    def _comparison(self, value: Compare, own_step: int) -> str:
        left_text = self._operand(value.left, own_step)
        if value.operator is not Comparison.IN:
            return f"{left_text} {value.operator.value} {self._operand(value.right, own_step)}"
        choices = value.right.value if isinstance(value.right, Literal) else None
        if not isinstance(choices, list) or not choices:
            raise NotExpressible
        literals = [Literal(each) for each in cast("list[object]", choices)]
        either = " || ".join(
            f"{left_text} == {_condition_literal(each.value, each)}" for each in literals
        )
        return f"({either})"

    def _operand(self, value: Expression, own_step: int) -> str:
        text = self.condition(value, own_step)
        return f"({text})" if isinstance(value, (Compare, AllOf, AnyOf, Not)) else text


def _result_output(value: Result, *, is_from_flow: bool) -> tuple[str, str]:
    """Return the name and the expression of the output for a result. Raises NotExpressible.

    ``is_from_flow``: the result is the reply of a sub-flow.
    """
    body = "$outputs.reply" if is_from_flow else "$response.body"
    if not value.path:
        return "result", body
    if is_from_flow or not _POINTER_PATH.fullmatch(value.path):
        raise NotExpressible
    pointer = re.sub(r"\[([0-9]+)\]", r".\1", value.path).replace(".", "/")
    return to_identifier(value.path).strip("-"), f"{body}#/{pointer}"


def _condition_literal(expression: Any, value: Expression) -> str:
    """Return ``value`` in the syntax of conditions of Arazzo. Raises NotExpressible.

    ``expression`` is the result of `Expressions.expression` for ``value``.
    """
    if not isinstance(value, Literal):
        return str(expression)
    if expression is None or isinstance(expression, bool):
        return {None: "null", True: "true", False: "false"}[expression]
    if isinstance(expression, (int, float)):
        return repr(expression)
    if isinstance(expression, str):
        return "'" + expression.replace("'", "''") + "'"
    raise NotExpressible
