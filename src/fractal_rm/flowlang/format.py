"""The canonical text of a flows.conf: the same flows and comments, in one manner.

Works on lines, not on what they mean, so that it changes nothing that it does not know:

- one blank line between flows, and between comments that stand apart; none at the ends;
- flows, settings and instructions begin at the left, what is said of an instruction two spaces in;
- words are one space apart, but for titles and what is quoted, which stay as they are;
- a comment on a line of its own goes with the line after it;
- the comments at the ends of a flow's lines begin in one column.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

import msgspec

from fractal_rm.flowlang.scan import STRING, Line, is_comment, read_line, text_lines
from fractal_rm.flowlang.settings import SETTINGS
from fractal_rm.flowlang.terms import MODIFIERS

INDENT = "  "
WIDEST = 60  # a line longer than that does not push the comments of its flow to the right

_STRING_OR_SPACES = re.compile(rf"({STRING})|\s+")
_OTHER_QUOTES = re.compile(r"['`]")  # a JMESPath has texts of its own in them


class _Written(msgspec.Struct):
    """A line in canonical form, and the comment that ends it, if any."""

    code: str
    comment: str = ""


def format_flows(text: str) -> str:
    """The canonical text; empty where ``text`` says nothing. Never raises.

    For a text without errors it means the same flows, and formatting it again changes nothing.
    """
    paragraphs = ("\n".join(_aligned(_written(each))) for each in _paragraphs(text_lines(text)))
    joined = "\n\n".join(paragraphs)
    return joined + "\n" if joined else ""


def _paragraphs(lines: Iterable[str]) -> Iterator[list[str]]:
    """What stands between blank lines: a flow with its comments, or comments alone."""
    together: list[str] = []
    for line in lines:
        if line.strip():
            together.append(line)
        elif together:
            yield together
            together = []
    if together:
        yield together


def _written(paragraph: list[str]) -> list[_Written]:
    written: list[_Written] = []
    comments: list[tuple[int, str]] = []  # where they stood, until what follows them is known
    under: int | None = None  # how far from the left the last instruction stands
    for text in paragraph:
        if is_comment(text):
            comments.append((len(text) - len(text.lstrip()), text.strip()))
            continue
        line = read_line(0, text)
        modifier = under is not None and line.words[0].text in MODIFIERS
        written += _comments(comments, under, before_modifier=modifier)
        comments = []
        code = INDENT * modifier + _code(line)
        written.append(_Written(code, text[line.end :].strip()))
        if not modifier and _is_instruction(line):
            under = line.indent
    written += _comments(comments, under, before_modifier=False)
    return written


def _comments(
    comments: list[tuple[int, str]], under: int | None, *, before_modifier: bool
) -> Iterator[_Written]:
    """Comments, indented where they say something of an instruction."""
    for indent, text in comments:
        deeper = before_modifier or (under is not None and indent > under)
        yield _Written(INDENT * deeper + text)


def _is_instruction(line: Line) -> bool:
    word = line.words[0].text
    return not word[0].isdigit() and word not in SETTINGS


def _code(line: Line) -> str:
    """What a line says, its words one space apart."""
    first, rest = line.words[0].text, line.rest
    if not rest:
        return first
    if first[0].isdigit() or _OTHER_QUOTES.search(_STRING_OR_SPACES.sub(" ", rest)):
        return f"{first} {rest}"
    return f"{first} " + _STRING_OR_SPACES.sub(lambda found: found[1] or " ", rest)


def _aligned(lines: list[_Written]) -> Iterator[str]:
    """The lines of a flow, the comments that end them in one column."""
    lengths = [len(line.code) for line in lines if line.comment]
    column = max((length for length in lengths if length <= WIDEST), default=0) + 2
    for line in lines:
        if line.comment:
            yield f"{line.code.ljust(column - 2)}  {line.comment}"
        else:
            yield line.code
