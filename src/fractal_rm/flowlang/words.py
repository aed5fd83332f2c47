"""The words of a line that may hold quotes."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from fractal_rm.flowlang.scan import Line, Word

# What may stand under an instruction: see `terms.MODIFIERS`.
SAID_OF_A_STEP = frozenset(
    ("WHEN", "AS", "TIMEOUT", "RETRY", "EXPECT", "HEADER", "QUERY", "UNDO", "FOREACH", "LIMIT")
)


def words_of(line: Line) -> tuple[Word, ...]:
    """The words of a line, where spaces within quotes end none."""
    return line.quoted_words() if '"' in line.text else line.words


def too_many(words: Sequence[Word], most: int) -> Word:
    """The first word after so many; where there are fewer, the keyword, which misses something."""
    return words[most] if len(words) > most else words[0]


def on_its_own(text: str) -> str | None:
    """What helps where a modifier stands behind its instruction; None for any other word."""
    if text not in SAID_OF_A_STEP:
        return None
    return f"{text} stands in a line of its own, indented under the instruction"


def unquoted(text: str) -> str | None:
    """A word out of its quotes, if it has any; None where what stands in them is no JSON text."""
    if not text.startswith('"'):
        return text
    try:
        return msgspec.json.decode(text, type=str)
    except ValueError:
        return None
