"""The modifiers of the flow language: the lines that are indented under an instruction.

`MODIFIERS` at the end of this file is the table of them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fractal_rm.domain.call import RESERVED_HEADERS, TOKEN, header_line
from fractal_rm.domain.expression import Compare, Comparison, Literal, Status, Value
from fractal_rm.domain.flow import ForEach, Retry, Undo
from fractal_rm.flowlang.body import CONTENT_KEYWORDS, read_items
from fractal_rm.flowlang.constant import constant_result
from fractal_rm.flowlang.duration import DURATION_HINT, duration_ms
from fractal_rm.flowlang.expression import read_condition, read_value
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.scope import Scope
from fractal_rm.flowlang.settings import whole_number
from fractal_rm.flowlang.tree import ModifierNode, StepNode
from fractal_rm.flowlang.words import modifier_hint, surplus_or_keyword, words_of

MAX_RETRIES = 100
MAX_CONCURRENT_CALLS = 10_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_RESERVED = re.compile(
    r"payload|result[0-9]*|item|status|header|and|or|not|in|true|false|null|JSON|RAW"
)
Fields = dict[str, Any]  # fields of `CallOptions`, and the fields of `ForEach`
Reader = Callable[[ModifierNode, Scope, Fields], None]


class Modifier(msgspec.Struct, frozen=True):
    """How a modifier is read. ``may_repeat``: a step may have the modifier several times."""

    read: Reader
    may_repeat: bool = False


def read_modifiers(node: StepNode, scope: Scope) -> Fields:
    """The fields of `CallOptions` that the modifiers of a step fill. Errors become findings."""
    fields: Fields = {}
    first_nodes: dict[str, ModifierNode] = {}
    for modifier in node.modifiers:
        keyword = modifier.keyword.text
        first_node = first_nodes.setdefault(keyword, modifier)
        if first_node is not modifier and not MODIFIERS[keyword].may_repeat:
            scope.report.add(
                "F117",
                modifier.line,
                modifier.keyword,
                f"this {node.keyword.text} has {keyword} already",
                f"remove one of them: the other {keyword} is in line {first_node.line.number}",
            )
        else:
            MODIFIERS[keyword].read(modifier, scope, fields)
    # Headers and parameters are collected in a dict and a list, because there may be thousands.
    if "headers" in fields:
        fields["headers"] = tuple(fields["headers"].values())
    if "query" in fields:
        fields["query"] = tuple(fields["query"])
    _check_limit(first_nodes, scope)
    max_parallel = fields.pop("max_parallel", None) or 1
    list_reference = fields.pop("list_reference", None)
    if list_reference is not None:
        fields["foreach"] = ForEach(list_reference, max_parallel)
    return fields


def has_foreach(node: StepNode) -> bool:
    """Whether a step has FOREACH."""
    return any(each.keyword.text == "FOREACH" for each in node.modifiers)


def _check_limit(first_nodes: Mapping[str, ModifierNode], scope: Scope) -> None:
    if "LIMIT" in first_nodes and "FOREACH" not in first_nodes:
        limit = first_nodes["LIMIT"]
        scope.report.add(
            "F125",
            limit.line,
            limit.keyword,
            "this call has LIMIT without FOREACH",
            "add FOREACH; a LIMIT of the whole flow goes before its first instruction",
        )


def read_name(node: StepNode, names: Mapping[str, int], report: Report) -> str | None:
    """The name that AS gives to a call. None if there is no AS, or if the name is not allowed."""
    as_node = next((each for each in node.modifiers if each.keyword.text == "AS"), None)
    if as_node is None:
        return None
    _, *words = as_node.line.words
    name = words[0].text if words else ""
    at = _second_or_last(words) if words else as_node.keyword
    if len(words) != 1 or not _NAME.fullmatch(name):
        report.add("F119", as_node.line, at, "AS takes one name: letters, digits and _",
                   "write: AS frame")  # fmt: skip
    elif _RESERVED.fullmatch(name):
        report.add("F119", as_node.line, at, f"{name} is a reserved word",
                   "choose another name")  # fmt: skip
    elif name in names:
        report.add("F120", as_node.line, at, f"call {names[name]} has the name {name} already",
                   "choose another name")  # fmt: skip
    else:
        return name
    return None


def _as(node: ModifierNode, scope: Scope, fields: Fields) -> None:  # noqa: ARG001 - a `Reader`
    """Store the name. `read_name` has checked it before any step of the flow was read."""
    fields["name"] = node.line.words[-1].text


def _timeout(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    fields["timeout_ms"] = read_duration(node.line, node.keyword, node.line.words[1:], scope)


def read_duration(
    line: Line, keyword: Word, words: Sequence[Word], scope: Scope, code: str = "F118"
) -> int | None:
    """Read the duration after a keyword, in ms. None if it has an error, which is reported."""
    ms = duration_ms(words[0].text) if len(words) == 1 else None
    if ms is None:
        at = _second_or_last(words) if words else keyword
        scope.report.add(
            code, line, at, f"{keyword.text} takes {DURATION_HINT}", modifier_hint(at.text)
        )
    return ms


def _second_or_last(words: Sequence[Word]) -> Word:
    """The word to report where one word is expected: the first surplus word, or the only word."""
    return words[1] if len(words) > 1 else words[-1]


def _retry(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    _, *words = node.line.words
    times = words[0].text if words else ""
    if whole_number(times, 1, MAX_RETRIES) is None:
        at = words[0] if words else node.keyword
        scope.report.add("F118", node.line, at,
                         f"RETRY takes a number of retries from 1 to {MAX_RETRIES}",
                         "write: RETRY 3 EVERY 100ms")  # fmt: skip
    elif len(words) == 1:
        fields["retry"] = Retry(int(times))
    elif words[1].text != "EVERY":
        scope.report.add("F118", node.line, words[1], f"unexpected {words[1].text}, expected EVERY",
                         "write: RETRY 3 EVERY 100ms")  # fmt: skip
    else:
        every_ms = read_duration(node.line, words[1], words[2:], scope)
        fields["retry"] = Retry(int(times), every_ms or 1)


def _when(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    fields["when"] = condition = read_condition(node.line, node.keyword, scope)
    if condition is not None and constant_result(condition) is False:
        scope.report.warn("F134", node.line, node.keyword,
                          "this condition is never true, so the step is always skipped",
                          "to disable a step, write # before its lines")  # fmt: skip


def _expect(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    _, *words = node.line.words
    if len(words) == 1 and words[0].text.isascii() and words[0].text.isdigit():
        fields["expect"] = _expected_status(node.line, words[0], scope)
        fields["expect_decides"] = True
        return
    scope.step.own_answer_allowed, scope.step.has_used_own_status = True, False
    fields["expect"] = condition = read_condition(node.line, node.keyword, scope)
    if condition is not None and constant_result(condition) is False:
        scope.report.warn(
            "F134",
            node.line,
            node.keyword,
            "this condition is never true, so the step always fails",
        )
    fields["expect_decides"] = scope.step.has_used_own_status
    scope.step.own_answer_allowed = False


def _expected_status(line: Line, word: Word, scope: Scope) -> Compare:
    status = int(word.text[:9])
    if not 200 <= status <= 599:
        scope.report.add("F118", line, word, "the status of an answer is a number from 200 to 599")
    return Compare(Comparison.EQUAL, Status(scope.step.number), Literal(status))


def _header(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """Read ``HEADER name value``."""
    if len(node.line.words) < 2:
        _report_name_and_value(node, scope)
        return
    name = node.line.words[1]
    if not TOKEN.fullmatch(name.text) or name.text.lower() in RESERVED_HEADERS:
        scope.report.add("F124", node.line, name, f"{name.text} cannot be set with HEADER",
                         "a header name has letters, digits and hyphens; the node itself sets"
                         " Content-Length, Transfer-Encoding, Connection, Idempotency-Key and"
                         " Fractal-Time-Left")  # fmt: skip
    headers: dict[str, tuple[str, Value | None]] = fields.setdefault("headers", {})
    if name.text.lower() in headers:
        scope.report.add("F117", node.line, name, f"this call has the header {name.text} already")
    value = read_value(node.line, name, scope, "a value")
    if isinstance(value, Literal) and not _can_be_sent(name.text, value.value):
        scope.report.add(
            "F124",
            node.line,
            name,
            f"this value of {name.text} cannot be sent",
            "a header value is one line of Latin-1 characters without NUL",
        )
    headers[name.text.lower()] = name.text, value


def _can_be_sent(name: str, value: object) -> bool:
    try:
        header_line(name, str(value))
    except ValueError:
        return False
    return True


def _query(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """Read ``QUERY name value``."""
    if len(node.line.words) < 2:
        _report_name_and_value(node, scope)
        return
    name = node.line.words[1]
    value = read_value(node.line, name, scope, "a value")
    fields.setdefault("query", []).append((name.text, value))


def _report_name_and_value(node: ModifierNode, scope: Scope) -> None:
    scope.report.add(
        "F118",
        node.line,
        node.keyword,
        f"{node.keyword.text} takes a name and a value",
        f'write: {node.keyword.text} <name> "text", or a reference instead of the text',
    )


def _undo(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """Read ``UNDO endpoint items``. The endpoint belongs to the component of the call."""
    _, *words = words_of(node.line)
    has_json_or_raw = len(words) > 1 and words[1].text in CONTENT_KEYWORDS
    if not words or has_json_or_raw:
        at = words[1] if has_json_or_raw else node.keyword
        scope.report.add("F118", node.line, at,
                         "UNDO takes an endpoint of the call's component, and items",
                         "write: UNDO 2 result1")  # fmt: skip
        return
    endpoint = words[0]
    component = scope.step.target.component.text if scope.step.target else ""
    endpoints = scope.known_names.endpoints.get(component)
    if endpoints is not None and endpoint.text not in endpoints:
        scope.report.add("F105", node.line, endpoint,
                         f'component "{component}" has no endpoint "{endpoint.text}"',
                         scope.report.did_you_mean(endpoint.text, endpoints))  # fmt: skip
    # An UNDO is sent once, after its call has ended. So it can send the answer of the call, but not
    # `item`, an element of a FOREACH.
    step, item_allowed = scope.step, scope.step.item_allowed
    step.own_answer_allowed, step.item_allowed = True, False
    fields["undo"] = Undo(endpoint.text, read_items(node.line, words[1:], scope))
    step.own_answer_allowed, step.item_allowed = False, item_allowed


def _for_each(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """Read ``FOREACH reference``."""
    words = words_of(node.line)
    if len(words) != 2:
        scope.report.add("F118", node.line, surplus_or_keyword(words, 2),
                         "FOREACH takes one reference to a list, such as payload.lines",
                         "write: FOREACH payload.lines")  # fmt: skip
        return
    scope.step.item_allowed = False
    fields["list_reference"] = scope.reference(node.line, words[1])
    scope.step.item_allowed = True


def _limit(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """Read ``LIMIT n``: how many calls of a FOREACH may be in flight at the same time."""
    _, *words = node.line.words
    fields["max_parallel"] = (
        whole_number(words[0].text, 1, MAX_CONCURRENT_CALLS) if len(words) == 1 else None
    )
    if fields["max_parallel"] is None:
        at = words[0] if words else node.keyword
        fault = f"LIMIT takes a number of calls from 1 to {MAX_CONCURRENT_CALLS}"
        hint = None
        if "/" in at.text:
            hint = 'the rate of calls is the key "rate" of the component, in components.conf'
        scope.report.add("F118", node.line, at, fault, hint)


MODIFIERS: dict[str, Modifier] = {
    "AS": Modifier(_as),
    "TIMEOUT": Modifier(_timeout),
    "RETRY": Modifier(_retry),
    "WHEN": Modifier(_when),
    "EXPECT": Modifier(_expect),
    "HEADER": Modifier(_header, may_repeat=True),
    "QUERY": Modifier(_query, may_repeat=True),
    "UNDO": Modifier(_undo),
    "FOREACH": Modifier(_for_each),
    "LIMIT": Modifier(_limit),
}
