"""Text into lines of words, each with its place."""

from __future__ import annotations

import re
from collections.abc import Iterator

import msgspec

from fractal_rm.domain.findings import Place

_WORD = re.compile(r"\S+")


class Word(msgspec.Struct, frozen=True):
    """A word and where it stands."""

    text: str
    place: Place


class Line(msgspec.Struct, frozen=True):
    """One line. No words: it is blank, and ends a flow. ``text`` is the line as it stands."""

    number: int
    text: str
    words: tuple[Word, ...]

    @property
    def rest(self) -> str:
        """What follows the first word."""
        first = self.words[0]
        return self.text[first.place.column - 1 + len(first.text) :].strip()


def scan(text: str) -> Iterator[Line]:
    """Yield every line but comments. Line ends may be LF, CRLF or CR; a byte order mark goes."""
    lines = text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n").split("\n")
    for number, line in enumerate(lines, 1):
        if line.lstrip().startswith("#"):
            continue
        words = tuple(
            Word(found[0], Place(number, found.start() + 1, len(found[0])))
            for found in _WORD.finditer(line)
        )
        yield Line(number, line, words)
