"""Formats the text of a flows.conf. The flows and the comments stay the same.

Lines are formatted without being compiled, so that lines with errors are kept. The layout:

- one blank line between flows, and between separate comments; none at the start and the end;
- flows, settings and instructions are not indented; modifiers are indented by two spaces;
- words are separated by one space; titles and quoted texts are not changed;
- a comment in a line of its own is indented like the line after it;
- the comments at the ends of a flow's lines are aligned in one column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from fractal_rm.flowlang.modifiers import MODIFIERS
from fractal_rm.flowlang.scan import STRING, Line, is_comment, read_line, text_lines
from fractal_rm.flowlang.settings import SETTINGS

INDENT = "  "
MAX_ALIGNED_WIDTH = 60  # longer lines are ignored when comments are aligned

_STRING_OR_SPACES = re.compile(rf"({STRING})|\s+")
# Quotes within a JMESPath. The spaces in a line with such quotes are not changed.
_OTHER_QUOTES = re.compile(r"['`]")


class _FormattedLine(msgspec.Struct):
    """A formatted line. ``code`` is the line without the comment at its end.

    ``comment`` is this comment, or empty. If the whole line is a comment, it is in ``code``.
    """

    code: str
    comment: str = ""


def format_flows(text: str) -> str:
    """The formatted text; empty if ``text`` has only blank lines. Never raises.

    If ``text`` has no errors, the result means the same flows, and formatting it again changes
    nothing.
    """
    paragraphs = (
        "\n".join(_aligned_lines(_formatted_lines(each))) for each in _paragraphs(text_lines(text))
    )
    joined = "\n\n".join(paragraphs)
    return joined + "\n" if joined else ""


def _paragraphs(lines: Iterable[str]) -> Iterator[list[str]]:
    """The groups of lines between blank lines: a flow with its comments, or only comments."""
    paragraph: list[str] = []
    for line in lines:
        if line.strip():
            paragraph.append(line)
        elif paragraph:
            yield paragraph
            paragraph = []
    if paragraph:
        yield paragraph


def _formatted_lines(paragraph: list[str]) -> list[_FormattedLine]:
    lines: list[_FormattedLine] = []
    comments: list[tuple[int, str]] = []  # comments before the next line, each with its indent
    instruction_indent: int | None = None  # the indent of the last instruction
    for text in paragraph:
        if is_comment(text):
            comments.append((len(text) - len(text.lstrip()), text.strip()))
            continue
        line = read_line(0, text)
        is_modifier = instruction_indent is not None and line.words[0].text in MODIFIERS
        lines += _comments(comments, instruction_indent, before_modifier=is_modifier)
        comments = []
        indent = INDENT if is_modifier else ""
        lines.append(_FormattedLine(indent + _code(line), text[line.end :].strip()))
        if not is_modifier and _is_instruction(line):
            instruction_indent = line.indent
    lines += _comments(comments, instruction_indent, before_modifier=False)
    return lines


def _comments(
    comments: list[tuple[int, str]], instruction_indent: int | None, *, before_modifier: bool
) -> Iterator[_FormattedLine]:
    """Comment lines, indented if they belong to an instruction."""
    for old_indent, text in comments:
        is_indented = before_modifier or (
            instruction_indent is not None and old_indent > instruction_indent
        )
        indent = INDENT if is_indented else ""
        yield _FormattedLine(indent + text)


def _is_instruction(line: Line) -> bool:
    word = line.words[0].text
    return not word[0].isdigit() and word not in SETTINGS


def _code(line: Line) -> str:
    """A line without its comment. Its words are separated by one space."""
    first, rest = line.words[0].text, line.rest
    if not rest:
        return first
    if first[0].isdigit() or _OTHER_QUOTES.search(_STRING_OR_SPACES.sub(" ", rest)):
        return f"{first} {rest}"
    return f"{first} " + _STRING_OR_SPACES.sub(lambda match: match[1] or " ", rest)


def _aligned_lines(lines: list[_FormattedLine]) -> Iterator[str]:
    """The lines of a flow, with their comments aligned."""
    lengths = [len(line.code) for line in lines if line.comment]
    width = max((length for length in lengths if length <= MAX_ALIGNED_WIDTH), default=0)
    for line in lines:
        if line.comment:
            yield f"{line.code.ljust(width)}  {line.comment}"
        else:
            yield line.code
