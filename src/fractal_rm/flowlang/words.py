"""Splits a line into words, which may be in quotes. Has hints for misplaced words."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm.flowlang.scan import Line, Word

# The keys of `modifiers.MODIFIERS`, repeated here because `modifiers` imports this module.
MODIFIER_KEYWORDS = frozenset(
    ("WHEN", "AS", "TIMEOUT", "RETRY", "EXPECT", "HEADER", "QUERY", "UNDO", "FOREACH", "LIMIT")
)


def words_of(line: Line) -> tuple[Word, ...]:
    """The words of a line. A text in quotes is one word, even if it has spaces."""
    return line.quoted_words() if '"' in line.text else line.words


def surplus_or_keyword(words: Sequence[Word], count: int) -> Word:
    """The word to report in a line that should have ``count`` words.

    This is the first surplus word. If there are too few words, it is the keyword.
    """
    return words[count] if len(words) > count else words[0]


def modifier_hint(text: str) -> str | None:
    """The hint for a modifier that is in the line of an instruction. None for other words."""
    if text not in MODIFIER_KEYWORDS:
        return None
    return f"write {text} in a line of its own, indented under the instruction"


def unquoted(text: str) -> str | None:
    """A word without its quotes. None if the word begins with a quote but is not a JSON string."""
    if not text.startswith('"'):
        return text
    try:
        return msgspec.json.decode(text, type=str)
    except ValueError:
        return None
