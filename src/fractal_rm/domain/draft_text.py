"""A file that is edited in a browser: what a form can carry of it, and what the file gets back.

A form ends lines with CR LF, and loses other control characters. So the marks of the file (its ends
of lines, and a byte order mark) are put aside, and a text with further characters that a browser
does not show or keep is not edited there.
"""

from __future__ import annotations

import unicodedata

import msgspec

from fractal_rm.domain.safe_text import ESCAPED

MAX_DRAFT_BYTES = 1024 * 1024  # about 25,000 lines
BYTE_ORDER_MARK = "\ufeff"


class FileMarks(msgspec.Struct, frozen=True):
    """What a text area does not show: ends of lines with CR LF, and a byte order mark."""

    has_crlf: bool = False
    has_mark: bool = False


def open_draft(content: str) -> tuple[str, FileMarks]:
    """The text to edit, with LF as the end of each line, and the marks of the file.

    If some lines end with CR LF and others with LF, the file is later written as most of them.
    """
    text = content.removeprefix(BYTE_ORDER_MARK)
    has_crlf = 2 * text.count("\r\n") > text.count("\n")
    return text.replace("\r\n", "\n"), FileMarks(has_crlf, text != content)


def close_draft(draft: str, marks: FileMarks) -> str:
    """The content of the file for a text of a form."""
    text = draft.replace("\r\n", "\n")
    if marks.has_crlf:
        text = text.replace("\n", "\r\n")
    return BYTE_ORDER_MARK + text if marks.has_mark else text


def unshown_character(text: str) -> str:
    """The first character that a browser does not show or keep, and its line; empty if none."""
    if text.isascii() and text.replace("\n", "").replace("\t", "").isprintable():
        return ""
    for number, line in enumerate(text.split("\n"), 1):
        for character in line:
            if character != "\t" and unicodedata.category(character) in ESCAPED:
                return f"line {number} has the character U+{ord(character):04X}"
    return ""
