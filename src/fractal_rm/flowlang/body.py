"""What a call sends: items, a JSON template, or one text as it is."""

from __future__ import annotations

from typing import Any

from fractal_rm.domain.expression import Payload, Reference
from fractal_rm.flowlang.expression import read_value
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.scope import Scope
from fractal_rm.flowlang.tree import CallNode

_FORMS = ("JSON", "RAW")
_ITEM = Payload()


def read_body(node: CallNode, scope: Scope) -> tuple[tuple[Reference, ...], dict[str, Any]]:
    """The items of a call, and the fields of `Terms` that its body fills."""
    line = node.line
    words = list(line.words[1:])
    if not words or not node.method.sends:
        return (), {}
    first = words[0]
    if first.text == "JSON":
        return (), {"json": read_value(line, first, scope, "a template")}
    if '"' in line.text:
        words = list(line.quoted_words()[1:])
    if first.text == "RAW":
        return (), {"raw": _raw(line, words, scope)}
    if _meant_as_json(line, first, scope):
        return (), {}
    items = (_item(line, word, scope) for word in words)
    return tuple(item for item in items if item is not None), {}


def _item(line: Line, word: Word, scope: Scope) -> Reference | None:
    return _ITEM if word.text == "payload" else scope.reference(line, word)


def _raw(line: Line, words: list[Word], scope: Scope) -> Reference | None:
    if len(words) == 2:
        return scope.reference(line, words[1])
    scope.report.add("F122", line, words[2] if len(words) > 2 else words[0],
                     "RAW sends one text: payload, a result or what a path picks from it",
                     "to send more than one thing, use JSON or items")  # fmt: skip
    return None


def _meant_as_json(line: Line, word: Word, scope: Scope) -> bool:
    """One finding for a template whose keyword is missing or misspelt, not one for each word."""
    text = word.text
    if text[0] in "{[":
        hint = f"a JSON template is written: {line.words[0].text} JSON {text[0]}…"
    elif text.upper() in _FORMS:
        hint = f'did you mean "{text.upper()}"?'
    else:
        return False
    scope.report.add("F107", line, word, f'"{text}" is neither payload nor a result', hint)
    return True
