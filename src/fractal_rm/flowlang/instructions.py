"""The lines that become steps: calls, RUN, WAIT, PUBLISH and REPLY, each read by its own function.

``TO`` is no step: it says where the calls after it go.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec
from msgspec import UNSET

from fractal_rm.domain.expression import Base64, Expression
from fractal_rm.domain.flow import (
    Call,
    Content,
    Method,
    Publish,
    Respond,
    Step,
    SubFlow,
    Terms,
    Wait,
)
from fractal_rm.domain.needs import speaks_of_item
from fractal_rm.flowlang.body import read_content
from fractal_rm.flowlang.certain import always, parts_of
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.scope import Scope
from fractal_rm.flowlang.terms import MODIFIERS, Fields, is_for_each, read_duration, read_terms
from fractal_rm.flowlang.topic import read_topic_name
from fractal_rm.flowlang.tree import StepNode
from fractal_rm.flowlang.words import on_its_own, words_of

Reader = Callable[[StepNode, Scope], Step]


class Instruction(msgspec.Struct, frozen=True):
    """How a line is read, which modifiers it takes, and whether it counts for ``resultN``.

    A call needs a ``TO`` before it.
    """

    read: Reader
    modifiers: tuple[str, ...] = ("WHEN",)
    counts: bool = False
    calls: bool = False


def read_step(node: StepNode, scope: Scope) -> Step:
    """The step that a line stands for. What is wrong with it, or doubtful, is a finding."""
    instruction = INSTRUCTIONS[node.keyword.text]
    step = instruction.read(node, scope)
    when = _condition(step)
    scope.warn_of_skipped(parts_of(when))
    if when is not None and instruction.counts and _may_leave_out(when):
        scope.may_skip(when)
    return step


def _may_leave_out(when: Expression) -> bool:
    """Whether a step may be left out for its WHEN.

    One that speaks of the item leaves out elements of a FOREACH: there is a list all the same.
    """
    return always(when) is None and not speaks_of_item(when)


def _call(node: StepNode, scope: Scope) -> Call:
    method = Method(node.keyword.text)
    scope.item = bool(node.modifiers) and is_for_each(node)
    content = _body(node.line, method, scope)
    fields: Fields = {}
    if content.json is not None:
        fields["json"] = content.json
    if content.raw is not None:
        fields["raw"] = content.raw
    if node.modifiers:
        fields |= read_terms(node, scope)
    scope.item = False
    target = scope.target
    return Call(
        number=scope.number,
        component=target.component.text if target else "",
        endpoint=target.endpoint.text if target else "",
        method=method,
        items=content.items,
        line=node.line.number,
        terms=_terms(fields, content),
    )


def _terms(fields: Fields, content: Content) -> Terms | msgspec.UnsetType:
    """A call of the seed's language has none, so that it costs and is written as it always was."""
    more = any(isinstance(item, Base64) or item.path for item in content.items)
    return Terms(**fields) if fields or more else UNSET


def _body(line: Line, method: Method, scope: Scope) -> Content:
    if method.sends:
        return read_content(line, words_of(line)[1:], scope)
    if len(line.words) > 1:
        scope.report.add("F109", line, line.words[1],
                         f"{method.value} sends nothing, so no item may follow it",
                         on_its_own(line.words[1].text) or "to send items, use POST")  # fmt: skip
    return Content()


def _run(node: StepNode, scope: Scope) -> SubFlow:
    """``RUN flow items``."""
    line, words = node.line, words_of(node.line)
    if len(words) > 1:
        _check_flow(line, words[1], scope)
        _check_run_content(line, words[2:], scope)
        flow, content = words[1].text, read_content(line, words[2:], scope)
    else:
        _misses(node, scope, "the number of a flow", "RUN 7 payload")
        flow, content = "", Content()
    fields = read_terms(node, scope)
    return SubFlow(scope.number, flow, content, fields.get("name", ""), fields.get("when"),
                   line.number)  # fmt: skip


def _check_flow(line: Line, word: Word, scope: Scope) -> None:
    if word.text not in scope.around.flows:
        scope.report.add("F128", line, word, f'there is no flow "{word.text}"',
                         scope.report.did_you_mean(word.text, scope.around.flows))  # fmt: skip


def _check_run_content(line: Line, words: Sequence[Word], scope: Scope) -> None:
    if words and words[0].text == "RAW":
        item = words[1].text if words[1:] else "payload"
        flow = line.words[1].text
        scope.report.add("F127", line, words[0], "RUN hands on items or JSON",
                         f"one item is handed on as it is: RUN {flow} {item}")  # fmt: skip


def _wait(node: StepNode, scope: Scope) -> Wait:
    """``WAIT duration``."""
    line, keyword = node.line, node.keyword
    ms = read_duration(line, keyword, line.words[1:], scope, "F127")
    return Wait(ms or 1, read_terms(node, scope).get("when"), line.number)


def _publish(node: StepNode, scope: Scope) -> Publish:
    """``PUBLISH topic items``."""
    line, words = node.line, words_of(node.line)
    topic = None
    if len(words) > 1:
        topic = read_topic_name(line, words[1], scope.report)
    else:
        _misses(node, scope, "a topic", "PUBLISH factory/alerts payload")
    content = read_content(line, words[2:], scope)
    return Publish(topic or "", content, read_terms(node, scope).get("when"), line.number)


def _reply(node: StepNode, scope: Scope) -> Respond:
    """``REPLY items``."""
    content = read_content(node.line, words_of(node.line)[1:], scope)
    return Respond(content, read_terms(node, scope).get("when"), node.line.number)


def _misses(node: StepNode, scope: Scope, what: str, example: str) -> None:
    scope.report.add("F127", node.line, node.keyword, f"{node.keyword.text} takes {what}, and"
                     " what is handed on", f"write: {example}")  # fmt: skip


def _condition(step: Step) -> Expression | None:
    if isinstance(step, Call):
        return None if step.terms is UNSET else step.terms.when
    return step.when


_A_CALL = Instruction(_call, tuple(MODIFIERS), counts=True, calls=True)

INSTRUCTIONS: dict[str, Instruction] = {
    **{method.value: _A_CALL for method in Method},
    "RUN": Instruction(_run, ("WHEN", "AS"), counts=True),
    "WAIT": Instruction(_wait),
    "PUBLISH": Instruction(_publish),
    "REPLY": Instruction(_reply),
}
