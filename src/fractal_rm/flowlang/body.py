"""What is sent, published, replied or handed on: items, a JSON template, or one text as it is."""

from __future__ import annotations

from collections.abc import Sequence

from fractal_rm.domain.expression import Base64, Payload, Piece, Reference
from fractal_rm.domain.flow import Content
from fractal_rm.flowlang.expression import read_value
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.scope import BASE64, Scope
from fractal_rm.flowlang.words import on_its_own

FORMS = ("JSON", "RAW")
_ITEM = Payload()
_NOTHING = Content()


def read_content(line: Line, words: Sequence[Word], scope: Scope) -> Content:
    """What the words at the end of a line stand for. What is wrong with them is a finding."""
    if not words:
        return _NOTHING
    first = words[0]
    if first.text == "JSON":
        return Content(json=read_value(line, first, scope, "a template"))
    if first.text == "RAW":
        return Content(raw=_raw(line, words, scope))
    return Content(items=read_items(line, words, scope))


def read_items(line: Line, words: Sequence[Word], scope: Scope) -> tuple[Piece, ...]:
    """Items of the seed's language: payload and results, each perhaps with a path, or as base64."""
    if words and _meant_as_json(line, words[0], scope):
        return ()
    items: list[Piece] = []
    for word in words:
        item = _item(line, word, scope)
        if item is not None:
            items.append(item)
        elif on_its_own(word.text):
            break  # there is a finding, and the rest belongs to it
    return tuple(items)


def _item(line: Line, word: Word, scope: Scope) -> Piece | None:
    if word.text == "payload":
        return _ITEM
    if word.text.startswith(f"{BASE64}("):
        return _base64(line, word, scope)
    return scope.reference(line, word)


def _base64(line: Line, word: Word, scope: Scope) -> Base64 | None:
    """``base64(ref)``, as an item in one word."""
    start, end = line.after(word) - len(word.text) + len(BASE64) + 1, line.after(word) - 1
    if end <= start or not word.text.endswith(")"):
        scope.report.add("F141", line, word, f"{BASE64} takes one reference, in brackets",
                         f"write it without spaces: {BASE64}(result1)")  # fmt: skip
        return None
    ref = scope.reference(line, line.word(start, end))
    return None if ref is None else Base64(ref)


def _raw(line: Line, words: Sequence[Word], scope: Scope) -> Reference | None:
    if len(words) == 2:
        return scope.reference(line, words[1])
    at = words[2] if len(words) > 2 else words[0]
    scope.report.add("F122", line, at,
                     "RAW sends one text: payload, a result or what a path picks from it",
                     on_its_own(at.text)
                     or "to send more than one thing, use JSON or items")  # fmt: skip
    return None


def _meant_as_json(line: Line, word: Word, scope: Scope) -> bool:
    """One finding for a template whose keyword is missing or misspelt, not one for each word."""
    text = word.text
    if text[0] in "{[":
        before = line.text[: word.place.column - 1].strip()
        hint = f"a JSON template is written: {before} JSON {text[0]}…"
    elif text.upper() in FORMS and text not in FORMS:
        hint = f'did you mean "{text.upper()}"?'
    else:
        return False
    scope.report.add("F107", line, word, f'"{text}" is neither payload nor a result', hint)
    return True
