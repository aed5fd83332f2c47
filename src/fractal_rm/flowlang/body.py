"""Reads the content of a step, after its keyword: items, a JSON template, or RAW and a value."""

from __future__ import annotations

from collections.abc import Sequence

from fractal_rm.domain.expression import Base64, Payload, Piece, Reference
from fractal_rm.domain.flow import Content
from fractal_rm.flowlang.expression import read_value
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.scope import BASE64, Scope
from fractal_rm.flowlang.words import modifier_hint

CONTENT_KEYWORDS = ("JSON", "RAW")
_PAYLOAD = Payload()
_NO_CONTENT = Content()


def read_content(line: Line, words: Sequence[Word], scope: Scope) -> Content:
    """Read the content of a step from the words at the end of its line. Errors become findings."""
    if not words:
        return _NO_CONTENT
    first = words[0]
    if first.text == "JSON":
        return Content(json=read_value(line, first, scope, "a template"))
    if first.text == "RAW":
        return Content(raw=_raw(line, words, scope))
    return Content(items=read_items(line, words, scope))


def read_items(line: Line, words: Sequence[Word], scope: Scope) -> tuple[Piece, ...]:
    """Read items: references, each with an optional path, or ``base64(reference)``.

    Items with errors are left out; the errors become findings.
    """
    if words and _report_wrong_keyword(line, words[0], scope):
        return ()
    items: list[Piece] = []
    for word in words:
        item = _item(line, word, scope)
        if item is not None:
            items.append(item)
        elif modifier_hint(word.text):
            break  # the word is a modifier: it has a finding, and the next words belong to it
    return tuple(items)


def _item(line: Line, word: Word, scope: Scope) -> Piece | None:
    if word.text == "payload":
        return _PAYLOAD
    if word.text.startswith(f"{BASE64}("):
        return _base64(line, word, scope)
    return scope.reference(line, word)


def _base64(line: Line, word: Word, scope: Scope) -> Base64 | None:
    """Read an item ``base64(reference)``, which is one word. None if it has an error."""
    start, end = (
        line.index_after(word) - len(word.text) + len(BASE64) + 1,
        line.index_after(word) - 1,
    )
    if end <= start or not word.text.endswith(")"):
        scope.report.add("F141", line, word, f"{BASE64} takes one reference, in parentheses",
                         f"write it without spaces: {BASE64}(result1)")  # fmt: skip
        return None
    ref = scope.reference(line, line.part(start, end))
    return None if ref is None else Base64(ref)


def _raw(line: Line, words: Sequence[Word], scope: Scope) -> Reference | None:
    if len(words) == 2:
        return scope.reference(line, words[1])
    at = words[2] if len(words) > 2 else words[0]
    scope.report.add("F122", line, at,
                     "RAW takes one reference: payload, a result or a path into one of them",
                     modifier_hint(at.text)
                     or "to send several values, use JSON or items")  # fmt: skip
    return None


def _report_wrong_keyword(line: Line, word: Word, scope: Scope) -> bool:
    """Report a template without the keyword JSON, or a misspelt JSON or RAW.

    Returns whether there was such an error.
    """
    text = word.text
    if text[0] in "{[":
        text_before = line.text[: word.place.column - 1].strip()
        hint = f"for a JSON template, write: {text_before} JSON {text[0]}…"
    elif text.upper() in CONTENT_KEYWORDS and text not in CONTENT_KEYWORDS:
        hint = f'did you mean "{text.upper()}"?'
    else:
        return False
    scope.report.add("F107", line, word, f'"{text}" is neither payload nor a result', hint)
    return True
