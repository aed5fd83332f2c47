"""Splits a text into lines of words, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from fractal_rm.domain.findings import Place

# A string without a closing quote extends to the end of its line. So each closing quote is searched
# once, and scanning never takes quadratic time.
STRING = r'"(?:[^"\\]|\\.)*(?:"|\\?$)'
_WORD = re.compile(r"\S+")
_QUOTED_WORD = re.compile(rf'(?:[^\s"]|{STRING})+')
_STRING_OR_COMMENT = re.compile(rf"{STRING}|\s#")


class Word(msgspec.Struct, frozen=True, gc=False):
    """A word and its place."""

    text: str
    place: Place


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line. A line without words is blank, and ends a flow. ``text`` is the whole line.

    ``end`` is the index where its comment begins; without a comment, the length of the line.
    """

    number: int
    text: str
    words: tuple[Word, ...]
    end: int

    @property
    def rest(self) -> str:
        """The text after the first word, without the comment."""
        return self.text[self.index_after(self.words[0]) : self.end].strip()

    @property
    def indent(self) -> int:
        """The number of characters before the first word."""
        return self.words[0].place.column - 1

    def index_after(self, word: Word) -> int:
        """The index after a word."""
        return word.place.column - 1 + len(word.text)

    def part(self, start: int, end: int) -> Word:
        """A part of the line as a word."""
        return Word(self.text[start:end], Place(self.number, start + 1, max(1, end - start)))

    def quoted_words(self) -> tuple[Word, ...]:
        """The words of the line; a space within quotes does not end a word."""
        return _words(_QUOTED_WORD, self.number, self.text[: self.end])


def scan(text: str) -> Iterator[Line]:
    """Yield every line that is not a comment. Line ends may be LF, CRLF or CR."""
    for number, line in enumerate(text_lines(text), 1):
        if not is_comment(line):
            yield read_line(number, line)


def text_lines(text: str) -> list[str]:
    """Every line without its line end; a byte order mark is removed."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")


def is_comment(line: str) -> bool:
    """Whether a line has only a comment."""
    return line.lstrip().startswith("#")


def read_line(number: int, line: str) -> Line:
    """Read a line that is not only a comment."""
    end = _end(line) if "#" in line else len(line)
    return Line(number, line, _words(_WORD, number, line[:end]), end)


def _words(kind: re.Pattern[str], number: int, text: str) -> tuple[Word, ...]:
    return tuple(
        Word(match[0], Place(number, match.start() + 1, len(match[0])))
        for match in kind.finditer(text)
    )


def _end(line: str) -> int:
    """The index where the comment begins: at a ``#`` after a space, and not in a string.

    Without a comment, the length of the line.
    """
    for match in _STRING_OR_COMMENT.finditer(line):
        if not match[0].startswith('"'):
            return match.start()
    return len(line)
