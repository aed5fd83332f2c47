"""What is indented under a call: its modifiers, each read by its own function."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

from fractal_rm.domain.call import OWN_HEADERS, TOKEN, header_line
from fractal_rm.domain.expression import Compare, Comparison, Literal, Status, Value
from fractal_rm.domain.flow import Retry
from fractal_rm.flowlang.duration import LIKE, duration_ms
from fractal_rm.flowlang.expression import read_condition, read_value
from fractal_rm.flowlang.report import Report
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.scope import Scope
from fractal_rm.flowlang.tree import CallNode, ModifierNode

MOST_RETRIES = 100

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,63}")
_MEANS_SOMETHING = re.compile(
    r"payload|result[0-9]*|item|status|header|and|or|not|in|true|false|null|JSON|RAW"
)
Fields = dict[str, Any]  # of Terms


def read_terms(node: CallNode, scope: Scope) -> Fields:
    """The fields of `Terms` that the modifiers of a call fill. What is wrong is a finding."""
    fields: Fields = {}
    before: dict[str, ModifierNode] = {}
    for modifier in node.modifiers:
        keyword = modifier.keyword.text
        first = before.setdefault(keyword, modifier)
        if first is not modifier and keyword not in ("HEADER", "QUERY"):
            scope.report.add("F117", modifier.line, modifier.keyword,
                             f"this call has {keyword} already",
                             f"it is in line {first.line.number}")  # fmt: skip
        else:
            MODIFIERS[keyword](modifier, scope, fields)
    # Gathered in what grows in place: a call may have thousands of them.
    if "headers" in fields:
        fields["headers"] = tuple(fields["headers"].values())
    if "query" in fields:
        fields["query"] = tuple(fields["query"])
    return fields


def read_name(node: CallNode, names: Mapping[str, int], report: Report) -> str | None:
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
    fields["timeout_ms"] = _duration(node.line, node.line.words[1:], node.keyword, scope)


def _duration(line: Line, words: tuple[Word, ...], keyword: Word, scope: Scope) -> int | None:
    ms = duration_ms(words[0].text) if len(words) == 1 else None
    if ms is None:
        at = words[min(1, len(words) - 1)] if words else keyword
        scope.report.add("F118", line, at, f"{keyword.text} takes {LIKE}")
    return ms


def _retry(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    _, *words = node.line.words
    times = words[0].text if words else ""
    if not (times.isascii() and times.isdigit() and 1 <= int(times[:9]) <= MOST_RETRIES):
        scope.report.add("F118", node.line, words[0] if words else node.keyword,
                         f"RETRY takes how often, from 1 to {MOST_RETRIES}",
                         "write: RETRY 3 EVERY 100ms")  # fmt: skip
    elif len(words) == 1:
        fields["retry"] = Retry(int(times))
    elif words[1].text != "EVERY":
        scope.report.add("F118", node.line, words[1], f"{words[1].text} stands where EVERY would",
                         "write: RETRY 3 EVERY 100ms")  # fmt: skip
    else:
        every_ms = _duration(node.line, tuple(words[2:]), words[1], scope)
        fields["retry"] = Retry(int(times), every_ms or 1)


def _when(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    fields["when"] = read_condition(node.line, node.keyword, scope)


def _expect(node: ModifierNode, scope: Scope, fields: Fields) -> None:
    _, *words = node.line.words
    if len(words) == 1 and words[0].text.isascii() and words[0].text.isdigit():
        fields["expect"] = _expected_status(node.line, words[0], scope)
        fields["settles"] = True
        return
    scope.own_too, scope.asks_own_status = True, False
    fields["expect"] = read_condition(node.line, node.keyword, scope)
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
        header_line(name, str(value)).encode("latin-1")
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


MODIFIERS: dict[str, Callable[[ModifierNode, Scope, Fields], None]] = {
    "AS": _as,
    "TIMEOUT": _timeout,
    "RETRY": _retry,
    "WHEN": _when,
    "EXPECT": _expect,
    "HEADER": _header,
    "QUERY": _query,
}
