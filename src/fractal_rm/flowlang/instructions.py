"""The instructions of the flow language: calls, RUN, WAIT, PUBLISH and REPLY.

`INSTRUCTIONS` at the end of this file is the table of them. CONTRIBUTING.md says how to add an
instruction. ``TO`` is not in the table: it sets the target of the calls after it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET

from fractal_rm.domain.expression import Base64, Expression
from fractal_rm.domain.flow import (
    Call,
    CallOptions,
    Content,
    Method,
    Publish,
    Reply,
    Step,
    SubFlow,
    Wait,
)
from fractal_rm.domain.needs import uses_item
from fractal_rm.flowlang.body import read_content
from fractal_rm.flowlang.constant import constant_result, parts_of
from fractal_rm.flowlang.modifiers import (
    MODIFIERS,
    Fields,
    has_foreach,
    read_duration,
    read_modifiers,
)
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.scope import Scope
from fractal_rm.flowlang.topic_words import read_topic_name
from fractal_rm.flowlang.tree import StepNode
from fractal_rm.flowlang.words import modifier_hint, words_of

Reader = Callable[[StepNode, Scope], Step]


class Instruction(msgspec.Struct, frozen=True):
    """How the line of an instruction is read, and which modifiers the instruction can have.

    ``is_numbered``: the instruction has a result, ``resultN``. ``needs_target``: the instruction
    needs a ``TO`` before it.
    """

    read: Reader
    modifiers: tuple[str, ...] = ("WHEN",)
    is_numbered: bool = False
    needs_target: bool = False


def read_step(node: StepNode, scope: Scope) -> Step:
    """Read the step of a line. Errors and warnings become findings."""
    instruction = INSTRUCTIONS[node.keyword.text]
    step = instruction.read(node, scope)
    when = _condition(step)
    scope.end_step(parts_of(when))
    if when is not None and instruction.is_numbered and _may_skip(when):
        scope.skipped.add_condition(scope.step.number, when)
    return step


def _may_skip(when: Expression) -> bool:
    """Whether a WHEN may skip the whole step.

    A WHEN about ``item`` only skips elements of a FOREACH: the result is still a list.
    """
    return constant_result(when) is None and not uses_item(when)


def _call(node: StepNode, scope: Scope) -> Call:
    method = Method(node.keyword.text)
    scope.step.item_allowed = bool(node.modifiers) and has_foreach(node)
    content = _body(node.line, method, scope)
    fields: Fields = {}
    if content.json is not None:
        fields["json"] = content.json
    if content.raw is not None:
        fields["raw"] = content.raw
    if node.modifiers:
        fields |= read_modifiers(node, scope)
    scope.step.item_allowed = False
    target = scope.step.target
    return Call(
        number=scope.step.number,
        component=target.component.text if target else "",
        endpoint=target.endpoint.text if target else "",
        method=method,
        items=content.items,
        line=node.line.number,
        options=_options(fields, content),
    )


def _options(fields: Fields, content: Content) -> CallOptions | msgspec.UnsetType:
    """The options of a call. UNSET if the original Runtime Manager can also make the call.

    Then the JSON of the call, and so the version of its flow, is the same as in older releases.
    """
    has_new_items = any(isinstance(item, Base64) or item.path for item in content.items)
    return CallOptions(**fields) if fields or has_new_items else UNSET


def _body(line: Line, method: Method, scope: Scope) -> Content:
    if method.has_body:
        return read_content(line, words_of(line)[1:], scope)
    if len(line.words) > 1:
        scope.report.add(
            "F109",
            line,
            line.words[1],
            f"{method.value} sends no body, so it takes no items",
            modifier_hint(line.words[1].text) or "to send items, use POST",
        )
    return Content()


def _run(node: StepNode, scope: Scope) -> SubFlow:
    """Read ``RUN flow items``."""
    line, words = node.line, words_of(node.line)
    if len(words) > 1:
        _check_flow(line, words[1], scope)
        _check_run_content(line, words[2:], scope)
        flow, content = words[1].text, read_content(line, words[2:], scope)
    else:
        _report_missing(node, scope, "the number of a flow", "RUN 7 payload")
        flow, content = "", Content()
    fields = read_modifiers(node, scope)
    return SubFlow(scope.step.number, flow, content, fields.get("name", ""), fields.get("when"),
                   line.number)  # fmt: skip


def _check_flow(line: Line, word: Word, scope: Scope) -> None:
    if word.text not in scope.known_names.flows:
        scope.report.add("F128", line, word, f'there is no flow "{word.text}"',
                         scope.report.did_you_mean(word.text, scope.known_names.flows))  # fmt: skip


def _check_run_content(line: Line, words: Sequence[Word], scope: Scope) -> None:
    if words and words[0].text == "RAW":
        item = words[1].text if len(words) > 1 else "payload"
        flow = line.words[1].text
        scope.report.add("F127", line, words[0], "RUN takes items or JSON, not RAW",
                         f"write one item without RAW: RUN {flow} {item}")  # fmt: skip


def _wait(node: StepNode, scope: Scope) -> Wait:
    """Read ``WAIT duration``."""
    line, keyword = node.line, node.keyword
    ms = read_duration(line, keyword, line.words[1:], scope, "F127")
    return Wait(ms or 1, read_modifiers(node, scope).get("when"), line.number)


def _publish(node: StepNode, scope: Scope) -> Publish:
    """Read ``PUBLISH topic items``."""
    line, words = node.line, words_of(node.line)
    topic = None
    if len(words) > 1:
        topic = read_topic_name(line, words[1], scope.report)
    else:
        _report_missing(node, scope, "a topic", "PUBLISH factory/alerts payload")
    content = read_content(line, words[2:], scope)
    return Publish(topic or "", content, read_modifiers(node, scope).get("when"), line.number)


def _reply(node: StepNode, scope: Scope) -> Reply:
    """Read ``REPLY items``."""
    content = read_content(node.line, words_of(node.line)[1:], scope)
    return Reply(content, read_modifiers(node, scope).get("when"), node.line.number)


def _report_missing(node: StepNode, scope: Scope, missing: str, example: str) -> None:
    scope.report.add("F127", node.line, node.keyword, f"{node.keyword.text} needs {missing}",
                     f"write: {example}")  # fmt: skip


def _condition(step: Step) -> Expression | None:
    """The WHEN of a step."""
    if isinstance(step, Call):
        return None if step.options is UNSET else step.options.when
    return step.when


_CALL_INSTRUCTION = Instruction(_call, tuple(MODIFIERS), is_numbered=True, needs_target=True)

INSTRUCTIONS: dict[str, Instruction] = {
    **{method.value: _CALL_INSTRUCTION for method in Method},
    "RUN": Instruction(_run, ("WHEN", "AS"), is_numbered=True),
    "WAIT": Instruction(_wait),
    "PUBLISH": Instruction(_publish),
    "REPLY": Instruction(_reply),
}
