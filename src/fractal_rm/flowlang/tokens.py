"""Reads the tokens of a line. Makes errors for tokens that are not expected."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from fractal_rm.flowlang.scan import STRING, Line, Word
from fractal_rm.flowlang.scope import Scope
from fractal_rm.flowlang.words import modifier_hint

MAX_DEPTH = 32
_TOKEN = re.compile(
    rf"""(?P<string>{STRING})
    | (?P<number>-?[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?)
    | (?P<word>[A-Za-z_]\w*(?:\.(?:{STRING}|(?:[\w*@.]|\[[-0-9:*]*\])*))?)
    | (?P<sign>==|!=|<=|>=|&&|\|\||\S)""",
    re.VERBOSE,
)
_HINTS = {
    "=": 'write "==" to compare', "&&": 'write "and"', "||": 'write "or"', "!": 'write "not"',
    "'": "write texts in double quotes",
}  # fmt: skip
_HINTS_FOR_PAIRS = {"=>": 'write ">="', "=<": 'write "<="'}
T = TypeVar("T")


class ExpressionError(Exception):
    """The first error in an expression. ``at`` is the part of the line that has the error."""

    def __init__(self, at: Word, text: str, hint: str | None = None, code: str = "F122") -> None:
        super().__init__(text)
        self.at, self.text, self.hint, self.code = at, text, hint, code


class Tokens:
    """Reads tokens from left to right.

    ``text`` is the text of the next token, and ``kind`` its kind: string, number, word or sign.
    Both are empty at the end of the line.
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
        """Move past the next token."""
        token = next(self._tokens, None)
        self._before = self.text
        self.text = token[0] if token else ""
        self.kind = str(token.lastgroup) if token else ""
        self._start = token.start() if token else self.line.end

    def take(self) -> Word:
        """Return the next token, and move past it."""
        word = self.peek()
        self.advance()
        return word

    def peek(self) -> Word:
        """Return the next token with its place. It stays the next token."""
        if not self.text:  # at the end: point at the last character
            end = len(self.line.text[: self.line.end].rstrip())
            return self.line.part(end - 1, end)
        return self.line.part(self._start, self._start + len(self.text))

    def report(self, code: str, at: Word, text: str, hint: str | None = None) -> None:
        """Add a finding about this line."""
        self.scope.report.add(code, self.line, at, text, hint)

    def expect_end(self) -> None:
        """Raise ExpressionError unless the line ends here."""
        if self.text:
            raise self.unexpected("")

    def unexpected(self, expected: str) -> ExpressionError:
        """Make the error for the next token, which is not ``expected``. Adds a hint if possible."""
        if not self.text:
            return ExpressionError(self.peek(), f"the line ends where {expected} is expected")
        hint = _HINTS.get(self.text) or modifier_hint(self.text)
        hint = _HINTS_FOR_PAIRS.get(self.line.text[self._start : self._start + 2], hint)
        if self.text == ">" and self._before == "<":
            hint = 'write "!="'
        if self.text == "[" and self._before[-1:].isalnum():
            name, dot, path = self._before.partition(".")
            hint = f"write the path after a dot: {name}.[0]"
            if dot:
                hint = f'write this path in quotes: {name}."{path}[…]"'
        message = f"unexpected {self.text}" + (f", expected {expected}" if expected else "")
        return ExpressionError(self.peek(), message, hint)

    def expect(self, sign: str) -> None:
        """Move past this sign. Raises ExpressionError if it is not the next token."""
        if self.text != sign:
            raise self.unexpected(f'"{sign}"')
        self.advance()

    def read_nested(self, read: Callable[[], T]) -> T:
        """Read a nested part with ``read``. Raises ExpressionError if it is nested too deeply."""
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise ExpressionError(self.peek(), f"this is nested more than {MAX_DEPTH} levels deep")
        nested = read()
        self._depth -= 1
        return nested
