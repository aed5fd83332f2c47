"""Conditions and templates: from a part of a line to a tree, or to a finding at its first fault.

condition  = all { "or" all }
all        = truth { "and" truth }
truth      = { "not" } operand [ ( "==" | "!=" | "<" | "<=" | ">" | ">=" | "in" ) operand ]
operand    = "(" condition ")" | value
value      = string | number | "true" | "false" | "null" | reference | list | object
           | "status" "(" call ")" | "header" "(" call "," string ")"
           | "base64" "(" reference ")"                        (in a template)
reference  = ( "payload" | "resultN" | name | "item" ) [ "." ( path | string ) ]
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

from fractal_rm.domain.expression import (
    AllOf,
    AnyOf,
    Base64,
    Compare,
    Comparison,
    Expression,
    Header,
    ListOf,
    Literal,
    Not,
    ObjectOf,
    Payload,
    Status,
    Value,
)
from fractal_rm.flowlang.scan import STRING, Line, Word
from fractal_rm.flowlang.scope import BASE64, BASE64_STANDS, Scope
from fractal_rm.flowlang.words import on_its_own

MAX_DEPTH = 32
_TOKEN = re.compile(
    rf"""(?P<string>{STRING})
    | (?P<number>-?[0-9][0-9.]*(?:[eE][+-]?[0-9]+)?)
    | (?P<word>[A-Za-z_]\w*(?:\.(?:{STRING}|(?:[\w*@.]|\[[-0-9:*]*\])*))?)
    | (?P<sign>==|!=|<=|>=|&&|\|\||\S)""",
    re.VERBOSE,
)
_CONSTANTS = {"true": True, "false": False, "null": None}
_QUESTIONS = ("status", "header")
_COMPARISONS = {each.value: each for each in Comparison}
_MEANT = {
    "=": 'write "==" to compare', "&&": 'write "and"', "||": 'write "or"', "!": 'write "not"',
    "'": "texts stand in double quotes",
}  # fmt: skip
_SWAPPED = {"=>": 'write ">="', "=<": 'write "<="'}
T = TypeVar("T")
Key = tuple[str, Value]


class _Misread(Exception):
    """The first fault of an expression, at a part of the line."""

    def __init__(self, at: Word, text: str, hint: str | None = None, code: str = "F122") -> None:
        super().__init__(text)
        self.at, self.text, self.hint, self.code = at, text, hint, code


def read_condition(line: Line, after: Word, scope: Scope) -> Expression | None:
    """The condition that follows a word. None: there is a finding."""
    scope.deciding(True)
    reader = _Reader(line, line.after(after), scope, decides=True)
    found = _read(reader, after, "a condition", reader.condition)
    scope.deciding(False)
    return found


def read_value(line: Line, after: Word, scope: Scope, what: str) -> Value | None:
    """The value or template that follows a word, called ``what``. None: there is a finding."""
    reader = _Reader(line, line.after(after), scope, decides=False)
    return _read(reader, after, what, reader.value)


def _read(reader: _Reader, after: Word, what: str, read: Callable[[], T]) -> T | None:
    if not reader.text:
        reader.report("F122", after, f"{what} is missing after {after.text}")
        return None
    try:
        found = read()
        reader.expect_end()
    except _Misread as fault:
        if not reader.unknown:
            reader.report(fault.code, fault.at, fault.text, fault.hint)
        return None
    return found


class _Reader:
    """Reads tokens from the left; ``text`` is the next one, empty at the end of the line.

    ``unknown``: a word was not known, and said to be so. What follows from that is not said.
    ``decides``: it is a condition, and no value or template.
    """

    def __init__(self, line: Line, start: int, scope: Scope, *, decides: bool) -> None:
        self._line = line
        self._scope = scope
        self._decides = decides
        self._tokens = _TOKEN.finditer(line.text, start, line.end)
        self._depth = 0
        self._before = ""
        self.unknown = False
        self.text = ""
        self._advance()

    def _advance(self) -> None:
        found = next(self._tokens, None)
        self._before = self.text
        self.text = found[0] if found else ""
        self.kind = str(found.lastgroup) if found else ""
        self._start = found.start() if found else self._line.end

    def _next(self) -> Word:
        """Go on by one token. Returns the one that is left behind."""
        word = self._here()
        self._advance()
        return word

    def _here(self) -> Word:
        if not self.text:  # the end: point at the last thing that was there
            end = len(self._line.text[: self._line.end].rstrip())
            return self._line.word(end - 1, end)
        return self._line.word(self._start, self._start + len(self.text))

    def report(self, code: str, at: Word, text: str, hint: str | None = None) -> None:
        """Add a finding about this line."""
        self._scope.report.add(code, self._line, at, text, hint)

    def expect_end(self) -> None:
        """Raise _Misread where something follows."""
        if self.text:
            raise self._unexpected("")

    def _unexpected(self, wanted: str) -> _Misread:
        if not self.text:
            return _Misread(self._here(), f"the line ends where {wanted} is expected")
        hint = _MEANT.get(self.text) or on_its_own(self.text)
        hint = _SWAPPED.get(self._line.text[self._start : self._start + 2], hint)
        if self.text == ">" and self._before == "<":
            hint = 'write "!="'
        if self.text == "[" and self._before[-1:].isalnum():
            name, dot, path = self._before.partition(".")
            hint = f"a path begins with a dot: {name}.[0]"
            if dot:
                hint = f'a path such as this one stands in quotes: {name}."{path}[…]"'
        what = f"stands where {wanted} is expected" if wanted else "cannot follow here"
        return _Misread(self._here(), f"{self.text} {what}", hint)

    def _take(self, sign: str) -> None:
        if self.text != sign:
            raise self._unexpected(f'"{sign}"')
        self._advance()

    def _deeper(self, read: Callable[[], T]) -> T:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise _Misread(self._here(), f"this is nested deeper than {MAX_DEPTH}")
        found = read()
        self._depth -= 1
        return found

    # --- conditions ---------------------------------------------------------------------------

    def condition(self) -> Expression:
        """``all or all …``."""
        parts = self._joined("or", self._all)
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all(self) -> Expression:
        parts = self._joined("and", self._truth)
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _joined(self, word: str, read: Callable[[], Expression]) -> list[Expression]:
        parts = [read()]
        while self.text == word:
            self._advance()
            parts.append(read())
        return parts

    def _truth(self) -> Expression:
        negated = False
        while self.text == "not":
            self._advance()
            negated = not negated
        at = self._here()
        part = self._compared()
        if isinstance(part, (ListOf, ObjectOf)) or (
            isinstance(part, Literal) and not isinstance(part.value, bool)
        ):
            raise _Misread(at, "this alone is neither true nor false", self._to_compare(part))
        return Not(part) if negated else part

    def _to_compare(self, part: Expression) -> str:
        """What helps with a value that is no condition; EXPECT alone sees its own answer."""
        if self._scope.own_too and isinstance(part, Literal) and isinstance(part.value, int):
            own = f"result{self._scope.number}"
            return f"one status stands alone; for several write: status({own}) in [200, 204]"
        return "compare it with something"

    def _compared(self) -> Expression:
        left = self._operand()
        how = _COMPARISONS.get(self.text)
        if how is None:
            return left
        sign = self._next()
        right = self._operand()
        if self.text in _COMPARISONS:
            raise _Misread(self._here(), "a comparison has two sides",
                           "join two of them: a < b and b < c")  # fmt: skip
        why = _impossible(how, left, right)
        if why:
            raise _Misread(sign, why, code="F123")
        return Compare(how, left, right)

    def _operand(self) -> Expression:
        if self.text != "(":
            return self.value()
        self._advance()
        inner = self._deeper(self.condition)
        self._take(")")
        return inner

    # --- values -------------------------------------------------------------------------------

    def value(self) -> Value:
        """A literal, a reference, a list or an object of them, or a question about an answer."""
        if self.kind in ("string", "number"):
            return Literal(self._literal())
        if self.text == "[":
            return self._deeper(self._list)
        if self.text == "{":
            return self._deeper(self._object)
        if self.kind != "word" or self.text in ("and", "or", "not", "in"):
            raise self._unexpected("a value")
        word = self._next()
        if word.text in _CONSTANTS:
            return Literal(_CONSTANTS[word.text])
        if self.text == "(" or word.text in _QUESTIONS:
            return self._base64(word) if word.text == BASE64 else self._question(word)
        found = self._scope.reference(self._line, word, *_CONSTANTS)
        self.unknown = self.unknown or found is None
        return found or Payload()  # there is a finding: anything will do

    def _literal(self) -> Any:
        what = "text" if self.kind == "string" else "number"
        word = self._next()
        try:
            found = msgspec.json.decode(word.text)
            msgspec.json.encode(found)  # the journal must be able to keep it
        except (ValueError, OverflowError):
            closed = len(word.text) > 1 and word.text.endswith('"')
            hint = None if what == "number" or closed else 'a text ends with a double quote: "'
            raise _Misread(word, f"this is not a JSON {what}", hint) from None
        return found

    def _list(self) -> Value:
        values = self._separated("]", self.value)
        if all(isinstance(value, Literal) for value in values):
            return Literal([_constant(value) for value in values])
        return ListOf(tuple(values))

    def _object(self) -> Value:
        at = self._here()
        fields = self._separated("}", self._field)
        if len({key for key, _ in fields}) < len(fields):
            raise _Misread(at, "this object has a key twice")
        if all(isinstance(value, Literal) for _, value in fields):
            return Literal({key: _constant(value) for key, value in fields})
        return ObjectOf(tuple(fields))

    def _field(self) -> Key:
        at = self._here()
        if self.kind != "string":
            hint = f'a key stands in quotes: "{self.text}"' if self.kind == "word" else None
            raise _Misread(at, "this is not the key of an object", hint)
        key = str(self._literal())
        self._take(":")
        return key, self.value()

    def _separated(self, end: str, read: Callable[[], T]) -> list[T]:
        """What stands between an opening sign, which is next, and ``end``, with commas between."""
        found: list[T] = []
        self._advance()
        while self.text != end:
            if found and self.text != ",":
                raise self._unexpected(f'"," or "{end}"')
            if found:
                self._advance()
            found.append(read())
        self._advance()
        return found

    def _base64(self, word: Word) -> Value:
        """``base64(reference)``."""
        if self._decides:
            raise _Misread(word, f"{BASE64} cannot stand in a condition", BASE64_STANDS, "F142")
        self._take("(")
        if self.kind != "word":
            raise _Misread(word, f"{BASE64} takes one reference, in brackets",
                           f"write: {BASE64}(result1)", "F141")  # fmt: skip
        found = self._scope.reference(self._line, self._next())
        self.unknown = self.unknown or found is None
        self._take(")")
        return Base64(found or Payload())  # where there is a finding, anything will do

    def _question(self, word: Word) -> Value:
        """``status(call)`` or ``header(call, "name")``."""
        if word.text not in _QUESTIONS:
            known = 'status(name) and header(name, "x")'
            known = known if self._decides else f"{BASE64}(ref), {known}"
            raise _Misread(word, f"there is no {word.text}(…)", f"there are {known}")
        self._take("(")
        if self.kind != "word":
            raise self._unexpected("the name of a call")
        call = self._next()
        number = self._scope.call(self._line, call)
        self.unknown = self.unknown or number is None
        header = self._header_name() if word.text == "header" else None
        self._take(")")
        if number is None:
            return Payload()  # there is a finding, or its name was not understood: anything will do
        self._scope.ask(self._line, call, number, header)
        return Status(number) if header is None else Header(number, header)

    def _header_name(self) -> str:
        self._take(",")
        if self.kind != "string":
            raise self._unexpected("the name of a header in quotes")
        return str(self._literal()).lower()


def _constant(value: Value) -> Any:
    return value.value if isinstance(value, Literal) else None


def _impossible(how: Comparison, left: Expression, right: Expression) -> str | None:
    """Why a comparison can never be made, as far as the flow itself tells."""
    sides = [side.value for side in (left, right) if isinstance(side, Literal)]
    if how in (Comparison.EQUAL, Comparison.UNEQUAL):
        return None
    if how is Comparison.IN:
        looked_into = right.value if isinstance(right, Literal) else ""
        known = isinstance(looked_into, (str, list)) and not isinstance(right, ObjectOf)
        return None if known else "in looks into a list, or for a text in a text"
    if None in sides:
        return "null is compared by == and != only"
    ordered = [isinstance(side, str) for side in sides if type(side) in (str, int, float)]
    if len(ordered) < len(sides) or len(set(ordered)) > 1:
        return f"{how.value} puts two numbers or two texts in order"
    return None
