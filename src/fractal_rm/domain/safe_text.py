"""Text from outside that people read: characters that would mislead them are escaped.

Messages, answers of components, names of nodes and configuration files may contain control
characters, which move the cursor of a terminal, marks that reverse the direction of writing, and
halves of surrogate pairs, which cannot be written.
"""

from __future__ import annotations

import unicodedata

# Format characters (Cf) that change the order or the shape of other characters, and separators of
# lines and paragraphs. A soft hyphen and joiners of emoji are format characters, too.
ESCAPED = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})


def safe_text(text: str) -> str:
    r"""A text in which each such character is escaped, such as ``\x1b`` and ``\u202e``.

    Line feeds and tabs are escaped, too.
    """
    if text.isascii() and text.isprintable():  # most texts
        return text
    return "".join(map(_safe, text))


def safe_block(text: str) -> str:
    """The same for a text of several lines: line feeds and tabs are kept."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(each if each in "\n\t" else _safe(each) for each in text)


def _safe(character: str) -> str:
    if unicodedata.category(character) in ESCAPED:
        return ascii(character)[1:-1]
    return character
