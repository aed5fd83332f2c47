"""A flow as an Arazzo 1.0.1 description, with the OpenAPI descriptions that it refers to.

What Arazzo says as the flow does: the calls and their order, bodies, headers and parameters,
what counts as success, retries, sub-flows, `ERRORS continue`, the reply where it is one reference.

What it has no words for (conditions, FOREACH, UNDO, time limits, dataflow order, WAIT, PUBLISH,
what begins a flow, its settings) stands beside that in ``x-fractal-…`` keys, in the words of
flows.conf.
A reference that it cannot make stands as its text, and so does ``x-fractal-sends`` then.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, cast

from msgspec import UNSET

from fractal_rm.config.model import Component
from fractal_rm.domain.errors import FractalError
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
from fractal_rm.domain.flow import (
    Call,
    Content,
    Counted,
    Errors,
    Flow,
    Order,
    Respond,
    SubFlow,
    Terms,
    flow_version,
)
from fractal_rm.domain.needs import needs
from fractal_rm.export.openapi import Apis, Document, free, plain
from fractal_rm.flowlang.wording import Wording, names_of
from fractal_rm.pictures.card import Card, cards, heading

_POINTED = re.compile(r"[A-Za-z_]\w*(?:\.[A-Za-z_]\w*|\[[0-9]+\])*", re.ASCII)


class CannotExport(FractalError):
    """The flow has nothing that the format could hold. The text says why."""

    code = "cannot-export"


class _CannotSay(Exception):
    """Arazzo has no words for it."""


def arazzo(
    flow: Flow, flows: Mapping[str, Flow], components: Mapping[str, Component]
) -> dict[str, Document]:
    """The documents by the names of their files; the Arazzo description is the first.

    It holds the flow and the flows that it runs. Raises CannotExport.
    """
    apis = Apis(components)
    together = _with_sub_flows(flow, flows)
    workflows = [_Workflow(each, apis).document() for each in together]
    document = {
        "arazzo": "1.0.1",
        "info": {
            "title": _title(flow),
            "summary": "made from flows.conf",
            "description": "What Arazzo has no words for stands in x-fractal-… keys.",
            "version": flow_version(flow),
        },
        "sourceDescriptions": apis.sources(),
        "workflows": workflows,
    }
    return {f"{_workflow_id(flow.id)}.arazzo.json": document, **apis.files()}


def _with_sub_flows(flow: Flow, flows: Mapping[str, Flow]) -> list[Flow]:
    found = {flow.id: flow}
    waiting = [flow]
    while waiting:
        for step in waiting.pop(0).steps:
            if isinstance(step, SubFlow) and step.flow not in found:
                found[step.flow] = flows[step.flow]
                waiting.append(flows[step.flow])
    for each in found.values():
        if not _counted(each):
            raise CannotExport(
                f"flow {each.id} makes no calls, and a workflow of Arazzo has at least one step"
            )
    if not any(isinstance(step, Call) for each in found.values() for step in each.steps):
        raise CannotExport("no component is called, and Arazzo describes the use of at least one")
    return list(found.values())


def _title(flow: Flow) -> str:
    return f"Flow {flow.id} {flow.title}".strip()


def _workflow_id(flow_id: str) -> str:
    return f"flow-{flow_id}"


class _Workflow:
    """Makes one workflow, and remembers which inputs and outputs its steps turn out to need."""

    def __init__(self, flow: Flow, apis: Apis) -> None:
        self._flow = flow
        self._apis = apis
        self._names = names_of(flow)
        self._words = Wording(self._names)
        self._inputs: dict[str, Document] = {"payload": {"description": "what the trigger brings"}}
        self._picked: dict[str, str] = {}  # path in the payload -> the input that stands for it
        self._sub_flows = {s.number for s in flow.steps if isinstance(s, SubFlow)}
        self._outputs: dict[int, dict[str, str]] = {}

    def document(self) -> Document:
        """The workflow."""
        flow = self._flow
        steps = self._steps()
        reply = self._reply()
        for step, document in zip(_counted(flow), steps, strict=True):
            if step.number in self._outputs:
                document["outputs"] = self._outputs[step.number]
        above = heading(flow)
        return {
            "workflowId": _workflow_id(flow.id),
            "summary": _title(flow),
            "description": f"{len(flow.steps)} steps, as flows.conf has them",
            "inputs": {"type": "object", "properties": self._inputs},
            "steps": steps,
            **reply,
            "x-fractal-begins-with": [" ".join(said) for said in above.begins],
            **({"x-fractal-settings": dict(above.settings)} if above.settings else {}),
        }

    def _steps(self) -> list[Document]:
        """The calls and sub-flows; what stands between them is said of the next one."""
        steps: list[Document] = []
        between: list[str] = []
        for step, card in zip(self._flow.steps, cards(self._flow), strict=True):
            if not isinstance(step, (Call, SubFlow)):
                between.append(_in_a_line(card))
                continue
            document = self._step(step, card)
            if between:
                document["x-fractal-before"] = between
                between = []
            steps.append(document)
        if between:
            steps[-1]["x-fractal-after"] = between
        return steps

    # --- steps ----------------------------------------------------------------------------------

    def _step_id(self, number: int) -> str:
        return self._names.get(number, f"call-{number}")

    def _step(self, step: Counted, card: Card) -> Document:
        document: Document = {"stepId": self._step_id(step.number)}
        document["description"] = f"{card.keyword} {card.target}"
        document |= self._call(step, card) if isinstance(step, Call) else self._run(step, card)
        if self._flow.errors is Errors.CONTINUE:
            document.setdefault("onFailure", []).append(self._go_on(step))
        said = {"when": card.when or card.picks, "foreach": card.each, "undo": card.undo}
        document |= {f"x-fractal-{key}": text for key, text in said.items() if text}
        if self._flow.order is Order.DATAFLOW:
            document["x-fractal-needs"] = [self._step_id(each) for each in sorted(needs(step))]
        return document

    def _go_on(self, step: Counted) -> Document:
        """What follows a failed step all the same."""
        after = [each.number for each in _counted(self._flow) if each.number > step.number]
        if not after:
            return {"name": "go-on", "type": "end"}
        return {"name": "go-on", "type": "goto", "stepId": self._step_id(after[0])}

    def _call(self, call: Call, card: Card) -> Document:
        terms = Terms() if call.terms is UNSET else call.terms
        operation = self._apis.operation(call.component, call.endpoint, call.method)
        document: Document = {"operationId": operation.reference}
        parameters: list[Document] = [
            {"name": name, "in": "query", "value": value} for name, value in operation.query
        ]
        for place, given in (("query", terms.query), ("header", terms.headers)):
            parameters += [
                {"name": name, "in": place, "value": self._said(value)[0]} for name, value in given
            ]
        if parameters:
            document["parameters"] = parameters
        if call.method.sends:
            document |= self._body(call, terms, card)
        document["successCriteria"] = self._success(call, terms, document)
        if terms.retry is not None:
            document["onFailure"] = [
                {
                    "name": "retry",
                    "type": "retry",
                    "retryAfter": terms.retry.every_ms / 1000,
                    "retryLimit": terms.retry.times,
                }
            ]
        if terms.timeout_ms is not None:
            document["x-fractal-timeout-ms"] = terms.timeout_ms
        return document

    def _run(self, step: SubFlow, card: Card) -> Document:
        document: Document = {"workflowId": _workflow_id(step.flow)}
        value, said = self._content(step.content)
        document["parameters"] = [{"name": "payload", "value": value}]
        return document if said else document | {"x-fractal-sends": card.sends}

    def _body(self, call: Call, terms: Terms, card: Card) -> Document:
        if terms.json is not None or terms.raw is not None:
            payload, said = self._content(Content((), terms.json, terms.raw))
        else:
            pairs = [self._said(item) for item in call.items]
            payload = {"payload": [value for value, _ in pairs]}
            said = all(each for _, each in pairs)
        document = {"requestBody": {"contentType": _content_type(terms), "payload": payload}}
        return document if said else document | {"x-fractal-sends": card.sends}

    def _success(self, call: Call, terms: Terms, document: Document) -> list[Document]:
        fine = [] if terms.settles else [{"condition": "$statusCode < 300"}]
        if terms.expect is None:
            return fine
        try:
            return [*fine, {"condition": self._condition(terms.expect, call.number)}]
        except _CannotSay:
            document["x-fractal-expect"] = self._words.expression(terms.expect)
            return fine or [{"condition": "$statusCode < 600"}]

    def _reply(self) -> Document:
        replies = [step.content for step in self._flow.steps if isinstance(step, Respond)]
        if not replies:
            return {"outputs": {"reply": self._value(Result(_counted(self._flow)[-1].number))}}
        content = replies[-1]
        value, said = self._content(content)
        if said and isinstance(value, str) and value.startswith("$"):
            return {"outputs": {"reply": value}}
        return {"x-fractal-reply": self._words.content(content)}

    # --- values ---------------------------------------------------------------------------------

    def _content(self, content: Content) -> tuple[Any, bool]:
        """One thing, a list of several, or null; and whether that says it all."""
        if content.json is not None:
            return self._said(content.json)
        if content.raw is not None:
            return self._said(content.raw)
        pairs = [self._said(item) for item in content.items]
        values = [value for value, _ in pairs]
        value = values[0] if len(values) == 1 else values or None
        return value, all(each for _, each in pairs)

    def _said(self, value: Value) -> tuple[Any, bool]:
        """The value, and whether that says it all; else its text stands for it."""
        if isinstance(value, ListOf):
            pairs = [self._said(each) for each in value.values]
            return [each for each, _ in pairs], all(said for _, said in pairs)
        if isinstance(value, ObjectOf):
            fields = {key: self._said(each) for key, each in value.fields}
            made = {key: each for key, (each, _) in fields.items()}
            return made, all(said for _, said in fields.values())
        try:
            return self._value(value), True
        except _CannotSay:
            return self._words.expression(value), False

    def _value(self, value: Expression, own: int = 0) -> Any:
        """A literal, or a runtime expression of Arazzo. Raises _CannotSay."""
        if isinstance(value, Literal):
            return value.value
        if isinstance(value, Payload):
            return f"$inputs.{self._input(value.path)}"
        if isinstance(value, Result):
            return self._answer(value.number, own, *_result(value, value.number in self._sub_flows))
        if isinstance(value, Status):
            return self._answer(value.number, own, "status", "$statusCode")
        if isinstance(value, Header):
            return self._answer(value.number, own, f"header-{plain(value.name)}",
                                f"$response.header.{value.name}")  # fmt: skip
        raise _CannotSay

    def _input(self, path: str) -> str:
        if not path:
            return "payload"
        if path not in self._picked:
            name = free(f"payload-{plain(path).strip('-')}", self._inputs)
            self._picked[path] = name
            said = self._words.reference(Payload(path))
            self._inputs[name] = {"description": said, "x-fractal-from": said}
        return self._picked[path]

    def _answer(self, number: int, own: int, name: str, expression: str) -> str:
        """A part of an answer: of this step itself, or an output of the step before."""
        if number == own:
            return expression
        outputs = self._outputs.setdefault(number, {})
        for known, same in outputs.items():
            if same == expression:
                return f"$steps.{self._step_id(number)}.outputs.{known}"
        name = free(name, outputs)
        outputs[name] = expression
        return f"$steps.{self._step_id(number)}.outputs.{name}"

    # --- conditions -----------------------------------------------------------------------------

    def _condition(self, value: Expression, own: int) -> str:
        """A simple condition of Arazzo. Raises _CannotSay."""
        if isinstance(value, Compare):
            return self._compared(value, own)
        if isinstance(value, Not):
            return f"!({self._condition(value.part, own)})"
        if isinstance(value, (AllOf, AnyOf)):
            sign = " && " if isinstance(value, AllOf) else " || "
            return sign.join(f"({self._condition(part, own)})" for part in value.parts)
        return _literal(self._value(value, own), value)

    def _compared(self, value: Compare, own: int) -> str:
        left = self._operand(value.left, own)
        if value.how is not Comparison.IN:
            return f"{left} {value.how.value} {self._operand(value.right, own)}"
        choices = value.right.value if isinstance(value.right, Literal) else None
        if not isinstance(choices, list) or not choices:
            raise _CannotSay
        literals = [Literal(each) for each in cast("list[object]", choices)]
        either = " || ".join(f"{left} == {_literal(each.value, each)}" for each in literals)
        return f"({either})"

    def _operand(self, value: Expression, own: int) -> str:
        said = self._condition(value, own)
        return f"({said})" if isinstance(value, (Compare, AllOf, AnyOf, Not)) else said


def _counted(flow: Flow) -> list[Counted]:
    """The steps that have a result."""
    return [step for step in flow.steps if isinstance(step, (Call, SubFlow))]


def _content_type(terms: Terms) -> str:
    for name, value in terms.headers:
        if name.lower() == "content-type" and isinstance(value, Literal):
            return str(value.value)
    return "application/json"


def _in_a_line(card: Card) -> str:
    words = [card.keyword, card.target, card.sends, card.when and f"WHEN {card.when}"]
    return " ".join(word for word in words if word)


def _result(value: Result, from_flow: bool) -> tuple[str, str]:
    """The name of an output, and the expression for it. Raises _CannotSay."""
    whole = "$outputs.reply" if from_flow else "$response.body"
    if not value.path:
        return "result", whole
    if from_flow or not _POINTED.fullmatch(value.path):
        raise _CannotSay
    pointer = re.sub(r"\[([0-9]+)\]", r".\1", value.path).replace(".", "/")
    return plain(value.path).strip("-"), f"{whole}#/{pointer}"


def _literal(said: Any, value: Expression) -> str:
    """A value within a condition. Raises _CannotSay."""
    if not isinstance(value, Literal):
        return str(said)
    if said is None or isinstance(said, bool):
        return {None: "null", True: "true", False: "false"}[said]
    if isinstance(said, (int, float)):
        return repr(said)
    if isinstance(said, str):
        return "'" + said.replace("'", "''") + "'"
    raise _CannotSay
