"""Parts of a line, read from the left, and what is said of one that does not fit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from fractal_rm.flowlang.scan import STRING, Line, Word
from fractal_rm.flowlang.scope import Scope
from fractal_rm.flowlang.words import on_its_own

MAX_DEPTH = 32
_TOKEN = re.compile(
    rf"""(?P<string>{STRING})
    | (?P<number>-?[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?)
    | (?P<word>[A-Za-z_]\w*(?:\.(?:{STRING}|(?:[\w*@.]|\[[-0-9:*]*\])*))?)
    | (?P<sign>==|!=|<=|>=|&&|\|\||\S)""",
    re.VERBOSE,
)
_MEANT = {
    "=": 'write "==" to compare', "&&": 'write "and"', "||": 'write "or"', "!": 'write "not"',
    "'": "texts stand in double quotes",
}  # fmt: skip
_SWAPPED = {"=>": 'write ">="', "=<": 'write "<="'}
T = TypeVar("T")


class Misread(Exception):
    """The first fault of an expression, at a part of the line."""

    def __init__(self, at: Word, text: str, hint: str | None = None, code: str = "F122") -> None:
        super().__init__(text)
        self.at, self.text, self.hint, self.code = at, text, hint, code


class Tokens:
    """Reads tokens from the left; ``text`` is the next one, empty at the end of the line.

    ``kind`` is what it is: string, number, word or sign.
    """

    def __init__(self, line: Line, start: int, scope: Scope) -> None:
        self.line = line
        self.scope = scope
        self._tokens = _TOKEN.finditer(line.text, start, line.end)
        self._depth = 0
        self._before = ""
        self.text = ""
        self.advance()

    def advance(self) -> None:
        """Go on by one token."""
        found = next(self._tokens, None)
        self._before = self.text
        self.text = found[0] if found else ""
        self.kind = str(found.lastgroup) if found else ""
        self._start = found.start() if found else self.line.end

    def next(self) -> Word:
        """Go on by one token. Returns the one that is left behind."""
        word = self.here()
        self.advance()
        return word

    def here(self) -> Word:
        """Where the next token stands."""
        if not self.text:  # the end: point at the last thing that was there
            end = len(self.line.text[: self.line.end].rstrip())
            return self.line.word(end - 1, end)
        return self.line.word(self._start, self._start + len(self.text))

    def report(self, code: str, at: Word, text: str, hint: str | None = None) -> None:
        """Add a finding about this line."""
        self.scope.report.add(code, self.line, at, text, hint)

    def expect_end(self) -> None:
        """Raise Misread where something follows."""
        if self.text:
            raise self.unexpected("")

    def unexpected(self, wanted: str) -> Misread:
        """What is wrong with the next token, where ``wanted`` should be, and what may be meant."""
        if not self.text:
            return Misread(self.here(), f"the line ends where {wanted} is expected")
        hint = _MEANT.get(self.text) or on_its_own(self.text)
        hint = _SWAPPED.get(self.line.text[self._start : self._start + 2], hint)
        if self.text == ">" and self._before == "<":
            hint = 'write "!="'
        if self.text == "[" and self._before[-1:].isalnum():
            name, dot, path = self._before.partition(".")
            hint = f"a path begins with a dot: {name}.[0]"
            if dot:
                hint = f'a path such as this one stands in quotes: {name}."{path}[…]"'
        what = f"stands where {wanted} is expected" if wanted else "cannot follow here"
        return Misread(self.here(), f"{self.text} {what}", hint)

    def take(self, sign: str) -> None:
        """Go on past this sign. Raises Misread where it is not the next token."""
        if self.text != sign:
            raise self.unexpected(f'"{sign}"')
        self.advance()

    def deeper(self, read: Callable[[], T]) -> T:
        """Read what stands within something. Raises Misread where it is nested too deep."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise Misread(self.here(), f"this is nested deeper than {MAX_DEPTH}")
        found = read()
        self._depth -= 1
        return found
