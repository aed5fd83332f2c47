"""Splits a line into words that may have quotes, and gives hints about words."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm.flowlang.scan import Line, Word

# The keys of `modifiers.MODIFIERS`, repeated here because `modifiers` imports this module.
MODIFIER_KEYWORDS = frozenset(
    ("WHEN", "AS", "TIMEOUT", "RETRY", "EXPECT", "HEADER", "QUERY", "UNDO", "FOREACH", "LIMIT")
)


def words_of(line: Line) -> tuple[Word, ...]:
    """The words of a line; a space within quotes does not end a word."""
    return line.quoted_words() if '"' in line.text else line.words


def surplus_or_keyword(words: Sequence[Word], expected: int) -> Word:
    """The word to report: the first surplus word, or the keyword if there are too few words."""
    return words[expected] if len(words) > expected else words[0]


def modifier_hint(text: str) -> str | None:
    """The hint for a modifier in the line of an instruction. None if the word is no modifier."""
    if text not in MODIFIER_KEYWORDS:
        return None
    return f"write {text} in a line of its own, indented under the instruction"


def unquoted(text: str) -> str | None:
    """A word without its quotes. None if the word begins with a quote, but is not a JSON text."""
    if not text.startswith('"'):
        return text
    try:
        return msgspec.json.decode(text, type=str)
    except ValueError:
        return None
