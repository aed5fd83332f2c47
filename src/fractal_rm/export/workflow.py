"""Writes one flow as an Arazzo workflow: its steps and their success and failure actions."""

from __future__ import annotations

from msgspec import UNSET

from fractal_rm.domain.expression import Literal, Result
from fractal_rm.domain.flow import (
    Call,
    CallOptions,
    Content,
    Flow,
    OnError,
    Order,
    Reply,
    StepWithResult,
    SubFlow,
)
from fractal_rm.domain.needs import needs
from fractal_rm.export.expressions import Expressions, NotExpressible
from fractal_rm.export.openapi import Apis, Document
from fractal_rm.pictures.card import Card, cards, heading


def title(flow: Flow) -> str:
    """Return the title of the workflow: the id and the title of the flow."""
    return f"Flow {flow.id} {flow.title}".strip()


def workflow_id(flow_id: str) -> str:
    """Return the id of the workflow for a flow."""
    return f"flow-{flow_id}"


class Workflow:
    """Writes the workflow of one flow. ``apis`` collects the operations that the flow calls."""

    def __init__(self, flow: Flow, apis: Apis) -> None:
        self._flow = flow
        self._apis = apis
        self._expressions = Expressions(flow)

    def document(self) -> Document:
        """Return the workflow as a JSON object."""
        flow, outputs = self._flow, self._expressions.outputs
        steps = self._steps()
        reply = self._reply()
        for step, document in zip(steps_with_results(flow), steps, strict=True):
            if step.number in outputs:
                document["outputs"] = outputs[step.number]
        header = heading(flow)
        settings = {"x-fractal-settings": dict(header.settings)} if header.settings else {}
        return {
            "workflowId": workflow_id(flow.id),
            "summary": title(flow),
            "description": f"{len(flow.steps)} steps, as flows.conf has them",
            "inputs": {"type": "object", "properties": self._expressions.inputs},
            "steps": steps,
            **reply,
            "x-fractal-begins-with": [" ".join(entry) for entry in header.starts],
            **settings,
        }

    def _steps(self) -> list[Document]:
        """Return the calls and sub-flows.

        Any other step becomes text in a key of the next call or sub-flow.
        """
        steps: list[Document] = []
        texts_between: list[str] = []
        for step, card in zip(self._flow.steps, cards(self._flow), strict=True):
            if not isinstance(step, (Call, SubFlow)):
                texts_between.append(_one_line(card))
                continue
            document = self._step(step, card)
            if texts_between:
                document["x-fractal-before"] = texts_between
                texts_between = []
            steps.append(document)
        if texts_between:
            steps[-1]["x-fractal-after"] = texts_between
        return steps

    # --- steps ----------------------------------------------------------------------------------

    def _step(self, step: StepWithResult, card: Card) -> Document:
        document: Document = {"stepId": self._expressions.step_id(step.number)}
        document["description"] = f"{card.keyword} {card.target}"
        if isinstance(step, Call):
            document |= self._call(step, card)
        else:
            document |= self._sub_flow(step, card)
        if self._flow.errors is OnError.CONTINUE:
            document.setdefault("onFailure", []).append(self._after_failure(step))
        options = {
            "when": card.when or card.element_when, "foreach": card.foreach, "undo": card.undo
        }  # fmt: skip
        document |= {f"x-fractal-{key}": text for key, text in options.items() if text}
        if self._flow.order is Order.DATAFLOW:
            needed = sorted(needs(step))
            document["x-fractal-needs"] = [self._expressions.step_id(each) for each in needed]
        return document

    def _after_failure(self, step: StepWithResult) -> Document:
        """Return the failure action for ERRORS continue: go to the next step, or end."""
        later_steps = [
            each.number for each in steps_with_results(self._flow) if each.number > step.number
        ]
        if not later_steps:
            return {"name": "continue", "type": "end"}
        return {
            "name": "continue",
            "type": "goto",
            "stepId": self._expressions.step_id(later_steps[0]),
        }

    def _call(self, call: Call, card: Card) -> Document:
        options = CallOptions() if call.options is UNSET else call.options
        operation = self._apis.operation(call.component, call.endpoint, call.method)
        document: Document = {"operationId": operation.reference}
        parameters: list[Document] = [
            {"name": name, "in": "query", "value": value} for name, value in operation.query
        ]
        for place, pairs in (("query", options.query), ("header", options.headers)):
            for name, value in pairs:
                arazzo_value, _ = self._expressions.value(value)
                parameters.append({"name": name, "in": place, "value": arazzo_value})
        if parameters:
            document["parameters"] = parameters
        if call.method.has_body:
            document |= self._body(call, options, card)
        document["successCriteria"] = self._success(call, options, document)
        if options.retry is not None:
            document["onFailure"] = [
                {
                    "name": "retry",
                    "type": "retry",
                    "retryAfter": options.retry.every_ms / 1000,
                    "retryLimit": options.retry.times,
                }
            ]
        if options.timeout_ms is not None:
            document["x-fractal-timeout-ms"] = options.timeout_ms
        return document

    def _sub_flow(self, step: SubFlow, card: Card) -> Document:
        document: Document = {"workflowId": workflow_id(step.flow)}
        value, complete = self._expressions.content(step.content)
        document["parameters"] = [{"name": "payload", "value": value}]
        return document if complete else document | {"x-fractal-sends": card.sends}

    def _body(self, call: Call, options: CallOptions, card: Card) -> Document:
        if options.json is not None or options.raw is not None:
            payload, complete = self._expressions.content(Content((), options.json, options.raw))
        else:
            pairs = [self._expressions.value(item) for item in call.items]
            payload = {"payload": [value for value, _ in pairs]}
            complete = all(item_complete for _, item_complete in pairs)
        document = {"requestBody": {"contentType": _content_type(options), "payload": payload}}
        return document if complete else document | {"x-fractal-sends": card.sends}

    def _success(self, call: Call, options: CallOptions, document: Document) -> list[Document]:
        default = [] if options.expect_decides else [{"condition": "$statusCode < 300"}]
        if options.expect is None:
            return default
        try:
            return [
                *default,
                {"condition": self._expressions.condition(options.expect, call.number)},
            ]
        except NotExpressible:
            document["x-fractal-expect"] = self._expressions.wording.expression(options.expect)
            # Arazzo does not allow an empty list, so this condition is always true.
            return default or [{"condition": "$statusCode < 600"}]

    def _reply(self) -> Document:
        replies = [step.content for step in self._flow.steps if isinstance(step, Reply)]
        if not replies:
            last = Result(steps_with_results(self._flow)[-1].number)
            return {"outputs": {"reply": self._expressions.expression(last)}}
        content = replies[-1]
        value, complete = self._expressions.content(content)
        if complete and isinstance(value, str) and value.startswith("$"):
            return {"outputs": {"reply": value}}
        return {"x-fractal-reply": self._expressions.wording.content(content)}


def steps_with_results(flow: Flow) -> list[StepWithResult]:
    """Return the steps that have a result: calls and sub-flows."""
    return [step for step in flow.steps if isinstance(step, (Call, SubFlow))]


def _content_type(options: CallOptions) -> str:
    for name, value in options.headers:
        if name.lower() == "content-type" and isinstance(value, Literal):
            return str(value.value)
    return "application/json"


def _one_line(card: Card) -> str:
    words = [card.keyword, card.target, card.sends, card.when and f"WHEN {card.when}"]
    return " ".join(word for word in words if word)
