"""What is indented under an instruction: modifiers, each read by its own function."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from fractal_rm.domain.call import OWN_HEADERS, TOKEN, header_line
from fractal_rm.domain.expression import Compare, Comparison, Literal, Status, Value
from fractal_rm.domain.flow import Each, Retry, Undo
from fractal_rm.flowlang.body import FORMS, read_items
from fractal_rm.flowlang.certain import always
from fractal_rm.flowlang.duration import LIKE, duration_ms
from fractal_rm.flowlang.expression import read_condition, read_value
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.scope import Scope
from fractal_rm.flowlang.settings import whole
from fractal_rm.flowlang.tree import ModifierNode, StepNode
from fractal_rm.flowlang.words import on_its_own, too_many, words_of

MOST_RETRIES = 100
MOST_AT_ONCE = 10_000

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MEANS_SOMETHING = re.compile(
    r"payload|result[0-9]*|item|status|header|and|or|not|in|true|false|null|JSON|RAW"
)
Fields = dict[str, Any]  # of Terms
Reader = Callable[[ModifierNode, Scope, Fields], None]

EVERY_STEP = ("WHEN",)
COUNTED = ("WHEN", "AS")


class Modifier(msgspec.Struct, frozen=True):
    """How a modifier is read, and whether it may stand there several times."""

    read: Reader
    often: bool = False


def read_terms(node: StepNode, scope: Scope) -> Fields:
    """The fields of `Terms` that the modifiers of a step fill. What is wrong is a finding."""
    fields: Fields = {}
    before: dict[str, ModifierNode] = {}
    for modifier in node.modifiers:
        keyword = modifier.keyword.text
        first = before.setdefault(keyword, modifier)
        if first is not modifier and not MODIFIERS[keyword].often:
            scope.report.add("F117", modifier.line, modifier.keyword,
                             f"this {node.keyword.text} has {keyword} already",
                             f"it is in line {first.line.number}")  # fmt: skip
        else:
            MODIFIERS[keyword].read(modifier, scope, fields)
    # Gathered in what grows in place: a call may have thousands of them.
    if "headers" in fields:
        fields["headers"] = tuple(fields["headers"].values())
    if "query" in fields:
        fields["query"] = tuple(fields["query"])
    _check_limit(before, scope)
    at_once = fields.pop("at_once", None) or 1
    over = fields.pop("over", None)
    if over is not None:
        fields["each"] = Each(over, at_once)
    return fields


def is_for_each(node: StepNode) -> bool:
    """Whether a step is made for each element of a list."""
    return any(each.keyword.text == "FOREACH" for each in node.modifiers)


def _check_limit(given: Mapping[str, ModifierNode], scope: Scope) -> None:
    if "LIMIT" in given and "FOREACH" not in given:
        limit = given["LIMIT"]
        scope.report.add("F125", limit.line, limit.keyword, "this LIMIT stands under no FOREACH",
                         "that of a FOREACH stands beside it; that of the flow before the first"
                         " instruction")  # fmt: skip


def read_name(node: StepNode, names: Mapping[str, int], report: Report) -> str | None:
    """The name that AS gives to a call; None where there is none, or it cannot be its name."""
    given = next((each for each in node.modifiers if each.keyword.text == "AS"), None)
    if given is None:
        return None
    _, *words = given.line.words
    name = words[0].text if words else ""
    at = words[min(1, len(words) - 1)] if words else given.keyword
    if len(words) != 1 or not _NAME.fullmatch(name):
        report.add("F119", given.line, at, "AS takes one name: letters, digits and _",
                   "write: AS frame")  # fmt: skip
    elif _MEANS_SOMETHING.fullmatch(name):
        report.add("F119", given.line, at, f"{name} means something else already",
                   "choose another name")  # fmt: skip
    elif name in names:
        report.add("F120", given.line, at, f"call {names[name]} has the name {name} already")
    else:
        return name
    return None


def _as(node: ModifierNode, scope: Scope, fields: Fields) -> None:  # noqa: ARG001 - as the others
    """Names are looked at before everything else: see `read_name`."""
    fields["name"] = node.line.words[-1].text


def _timeout(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    fields["timeout_ms"] = read_duration(node.line, node.keyword, node.line.words[1:], scope)


def read_duration(
    line: Line, keyword: Word, words: Sequence[Word], scope: Scope, code: str = "F118"
) -> int | None:
    """The milliseconds that one word after a keyword stands for. None: there is a finding."""
    ms = duration_ms(words[0].text) if len(words) == 1 else None
    if ms is None:
        at = words[min(1, len(words) - 1)] if words else keyword
        scope.report.add(code, line, at, f"{keyword.text} takes {LIKE}", on_its_own(at.text))
    return ms


def _retry(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    _, *words = node.line.words
    times = words[0].text if words else ""
    if whole(times, 1, MOST_RETRIES) is None:
        scope.report.add("F118", node.line, words[0] if words else node.keyword,
                         f"RETRY takes how often, from 1 to {MOST_RETRIES}",
                         "write: RETRY 3 EVERY 100ms")  # fmt: skip
    elif len(words) == 1:
        fields["retry"] = Retry(int(times))
    elif words[1].text != "EVERY":
        scope.report.add("F118", node.line, words[1], f"{words[1].text} stands where EVERY would",
                         "write: RETRY 3 EVERY 100ms")  # fmt: skip
    else:
        every_ms = read_duration(node.line, words[1], words[2:], scope)
        fields["retry"] = Retry(int(times), every_ms or 1)


def _when(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    fields["when"] = condition = read_condition(node.line, node.keyword, scope)
    if condition is not None and always(condition) is False:
        scope.report.warn("F134", node.line, node.keyword,
                          "this is never true, so its step is never done",
                          "to take a step out, put # before its lines")  # fmt: skip


def _expect(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    _, *words = node.line.words
    if len(words) == 1 and words[0].text.isascii() and words[0].text.isdigit():
        fields["expect"] = _expected_status(node.line, words[0], scope)
        fields["settles"] = True
        return
    scope.own_too, scope.asks_own_status = True, False
    fields["expect"] = condition = read_condition(node.line, node.keyword, scope)
    if condition is not None and always(condition) is False:
        scope.report.warn("F134", node.line, node.keyword, "this is never true: the step fails")
    fields["settles"] = scope.asks_own_status
    scope.own_too = False


def _expected_status(line: Line, word: Word, scope: Scope) -> Compare:
    status = int(word.text[:9])
    if not 200 <= status <= 599:
        scope.report.add("F118", line, word, "the status of an answer is from 200 to 599")
    return Compare(Comparison.EQUAL, Status(scope.number), Literal(status))


def _header(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """``HEADER name value``."""
    if len(node.line.words) < 2:
        _needs_two(node, scope)
        return
    name = node.line.words[1]
    if not TOKEN.fullmatch(name.text) or name.text.lower() in OWN_HEADERS:
        scope.report.add("F124", node.line, name, f"{name.text} cannot be set with HEADER",
                         "the name of a header is letters, digits and hyphens; what delimits or"
                         " names a call is set by the node itself")  # fmt: skip
    given: dict[str, tuple[str, Value | None]] = fields.setdefault("headers", {})
    if name.text.lower() in given:
        scope.report.add("F117", node.line, name, f"this call has the header {name.text} already")
    value = read_value(node.line, name, scope, "a value")
    if isinstance(value, Literal) and not _can_be_sent(name.text, value.value):
        scope.report.add("F124", node.line, name, f"this value of {name.text} cannot be sent",
                         "a header is one line of Latin-1 without NUL")  # fmt: skip
    given[name.text.lower()] = name.text, value


def _can_be_sent(name: str, value: object) -> bool:
    try:
        header_line(name, str(value))
    except ValueError:
        return False
    return True


def _query(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """``QUERY name value``."""
    if len(node.line.words) < 2:
        _needs_two(node, scope)
        return
    name = node.line.words[1]
    value = read_value(node.line, name, scope, "a value")
    fields.setdefault("query", []).append((name.text, value))


def _needs_two(node: ModifierNode, scope: Scope) -> None:
    scope.report.add("F118", node.line, node.keyword,
                     f"{node.keyword.text} takes a name and a value",
                     f'write: {node.keyword.text} <name> "text", or a reference')  # fmt: skip


def _undo(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """``UNDO endpoint items``: of the call's own component."""
    _, *words = words_of(node.line)
    other = len(words) > 1 and words[1].text in FORMS
    if not words or other:
        scope.report.add("F118", node.line, words[1] if other else node.keyword,
                         "UNDO takes an endpoint of the call's component, and items",
                         "write: UNDO 2 result1")  # fmt: skip
        return
    endpoint = words[0]
    component = scope.target.component.text if scope.target else ""
    known = scope.around.endpoints.get(component)
    if known is not None and endpoint.text not in known:
        scope.report.add("F105", node.line, endpoint,
                         f'component "{component}" has no endpoint "{endpoint.text}"',
                         scope.report.did_you_mean(endpoint.text, known))  # fmt: skip
    # It is made after its call has ended, once: it can look at the answer, and at no element.
    scope.own_too, for_each, scope.item = True, scope.item, False
    fields["undo"] = Undo(endpoint.text, read_items(node.line, words[1:], scope))
    scope.own_too, scope.item = False, for_each


def _for_each(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """``FOREACH ref``."""
    words = words_of(node.line)
    if len(words) != 2:
        scope.report.add("F118", node.line, too_many(words, 2),
                         "FOREACH takes one list: payload, a result or what a path picks from it",
                         "write: FOREACH payload.lines")  # fmt: skip
        return
    scope.item = False
    fields["over"] = scope.reference(node.line, words[1])
    scope.item = True


def _limit(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    """``LIMIT n``: so many of a FOREACH at once."""
    _, *words = node.line.words
    fields["at_once"] = whole(words[0].text, 1, MOST_AT_ONCE) if len(words) == 1 else None
    if fields["at_once"] is None:
        scope.report.add("F118", node.line, words[0] if words else node.keyword,
                         f"LIMIT takes how many at once, from 1 to {MOST_AT_ONCE}")  # fmt: skip


MODIFIERS: dict[str, Modifier] = {
    "AS": Modifier(_as),
    "TIMEOUT": Modifier(_timeout),
    "RETRY": Modifier(_retry),
    "WHEN": Modifier(_when),
    "EXPECT": Modifier(_expect),
    "HEADER": Modifier(_header, often=True),
    "QUERY": Modifier(_query, often=True),
    "UNDO": Modifier(_undo),
    "FOREACH": Modifier(_for_each),
    "LIMIT": Modifier(_limit),
}
