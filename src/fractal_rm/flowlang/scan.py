"""Text into lines of words, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from fractal_rm.domain.findings import Place

# A string that is not closed goes on to the end of its line, so that looking for its end is done
# once and no text takes the square of its length.
STRING = r'"(?:[^"\\]|\\.)*(?:"|\\?$)'
_WORD = re.compile(r"\S+")
_QUOTED_WORD = re.compile(rf'(?:[^\s"]|{STRING})+')
_STRING_OR_COMMENT = re.compile(rf"{STRING}|\s#")


class Word(msgspec.Struct, frozen=True, gc=False):
    """A word and where it stands."""

    text: str
    place: Place


class Line(msgspec.Struct, frozen=True, gc=False):
    """One line. No words: it is blank, and ends a flow. ``text`` is the line as it stands.

    ``end`` is how far it means something: a comment may follow.
    """

    number: int
    text: str
    words: tuple[Word, ...]
    end: int

    @property
    def rest(self) -> str:
        """What follows the first word."""
        return self.text[self.after(self.words[0]) : self.end].strip()

    @property
    def indent(self) -> int:
        """How far its first word is from the left."""
        return self.words[0].place.column - 1

    def after(self, word: Word) -> int:
        """Where a word has ended."""
        return word.place.column - 1 + len(word.text)

    def word(self, start: int, end: int) -> Word:
        """A part of the line as a word."""
        return Word(self.text[start:end], Place(self.number, start + 1, max(1, end - start)))

    def quoted_words(self) -> tuple[Word, ...]:
        """Its words, where spaces within quotes end none."""
        return _words(_QUOTED_WORD, self.number, self.text[: self.end])


def scan(text: str) -> Iterator[Line]:
    """Yield every line but comments. Line ends may be LF, CRLF or CR; a byte order mark goes."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("#"):
            continue
        end = _end(line) if "#" in line else len(line)
        yield Line(number, line, _words(_WORD, number, line[:end]), end)


def _words(kind: re.Pattern[str], number: int, text: str) -> tuple[Word, ...]:
    return tuple(
        Word(found[0], Place(number, found.start() + 1, len(found[0])))
        for found in kind.finditer(text)
    )


def _end(line: str) -> int:
    """Where a comment begins: at a ``#`` after a space, outside of a string."""
    for found in _STRING_OR_COMMENT.finditer(line):
        if not found[0].startswith('"'):
            return found.start()
    return len(line)
