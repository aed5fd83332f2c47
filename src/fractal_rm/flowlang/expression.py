"""Reads the conditions and templates in a line. Reports only the first error of each.

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

from collections.abc import Callable
from typing import Any, TypeVar

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
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import NUMBER_TOO_LARGE, read_json
from fractal_rm.flowlang.scan import Line, Word
from fractal_rm.flowlang.scope import BASE64, BASE64_HINT, Scope
from fractal_rm.flowlang.tokens import ExpressionError, Tokens

_CONSTANTS = {"true": True, "false": False, "null": None}
_CALL_FUNCTIONS = ("status", "header")
_COMPARISONS = {each.value: each for each in Comparison}
T = TypeVar("T")
Field = tuple[str, Value]


def read_condition(line: Line, previous_word: Word, scope: Scope) -> Expression | None:
    """Read the condition that follows a word. None if it has an error, which is reported."""
    scope.skipped.in_condition = True
    reader = _Reader(line, line.index_after(previous_word), scope, is_condition=True)
    condition = _read(reader, previous_word, "a condition", reader.condition)
    scope.skipped.in_condition = False
    return condition


def read_value(line: Line, previous_word: Word, scope: Scope, kind: str) -> Value | None:
    """Read the value or template that follows a word. None if it has an error, which is reported.

    ``kind`` is the name of the value in the finding, such as ``a template``.
    """
    reader = _Reader(line, line.index_after(previous_word), scope, is_condition=False)
    return _read(reader, previous_word, kind, reader.value)


def _read(reader: _Reader, previous_word: Word, kind: str, read: Callable[[], T]) -> T | None:
    if not reader.text:
        reader.report("F122", previous_word, f"{kind} is missing after {previous_word.text}")
        return None
    try:
        expression = read()
        reader.expect_end()
    except ExpressionError as error:
        if not reader.unknown_word:
            reader.report(error.code, error.at, error.text, error.hint)
        return None
    return expression


class _Reader(Tokens):
    """Reads a condition or, if ``is_condition`` is false, a value or a template.

    The grammar is at the top of this file. ``unknown_word``: an unknown word was reported, so later
    errors are not reported.
    """

    def __init__(self, line: Line, start: int, scope: Scope, *, is_condition: bool) -> None:
        super().__init__(line, start, scope)
        self._is_condition = is_condition
        self.unknown_word = False

    # --- conditions ---------------------------------------------------------------------------

    def condition(self) -> Expression:
        """Read a condition, such as ``all or all``."""
        parts = self._parts("or", self._all)
        return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))

    def _all(self) -> Expression:
        parts = self._parts("and", self._truth)
        return parts[0] if len(parts) == 1 else AllOf(tuple(parts))

    def _parts(self, word: str, read: Callable[[], Expression]) -> list[Expression]:
        parts = [read()]
        while self.text == word:
            self.advance()
            parts.append(read())
        return parts

    def _truth(self) -> Expression:
        negated = False
        while self.text == "not":
            self.advance()
            negated = not negated
        at = self.peek()
        part = self._comparison()
        if isinstance(part, (ListOf, ObjectOf)) or (
            isinstance(part, Literal) and not isinstance(part.value, bool)
        ):
            raise ExpressionError(at, "this value is not a condition", self._comparison_hint(part))
        return Not(part) if negated else part

    def _comparison_hint(self, part: Expression) -> str:
        """The hint for a value that is not a condition."""
        in_expect = self.scope.step.own_answer_allowed
        if in_expect and isinstance(part, Literal) and isinstance(part.value, int):
            result = f"result{self.scope.step.number}"
            return (
                f"write one status, such as EXPECT 200, or a list: status({result}) in [200, 204]"
            )
        return "compare it with another value"

    def _comparison(self) -> Expression:
        left = self._operand()
        operator = _COMPARISONS.get(self.text)
        if operator is None:
            return left
        sign = self.take()
        right = self._operand()
        if self.text in _COMPARISONS:
            raise ExpressionError(self.peek(), "a comparison has only two sides",
                           "write two comparisons: a < b and b < c")  # fmt: skip
        fault = _comparison_fault(operator, left, right)
        if fault:
            raise ExpressionError(sign, fault, code="F123")
        return Compare(operator, left, right)

    def _operand(self) -> Expression:
        if self.text != "(":
            return self.value()
        self.advance()
        inner = self.read_nested(self.condition)
        self.expect(")")
        return inner

    # --- values -------------------------------------------------------------------------------

    def value(self) -> Value:
        """Read a literal, a reference, a function such as ``status``, a list or an object."""
        if self.kind in ("string", "number"):
            return Literal(self._literal())
        if self.text == "[":
            return self.read_nested(self._list)
        if self.text == "{":
            return self.read_nested(self._object)
        if self.kind != "word" or self.text in ("and", "or", "not", "in"):
            raise self.unexpected("a value")
        word = self.take()
        if word.text in _CONSTANTS:
            return Literal(_CONSTANTS[word.text])
        if self.text == "(" or word.text in _CALL_FUNCTIONS:
            return self._base64(word) if word.text == BASE64 else self._call_function(word)
        reference = self.scope.reference(self.line, word, *_CONSTANTS)
        self.unknown_word = self.unknown_word or reference is None
        return reference or Payload()  # the payload is not used: the unknown word was reported

    def _literal(self) -> Any:
        kind = "text" if self.kind == "string" else "number"
        word = self.take()
        try:
            return read_json(word.text.encode())
        except Malformed as error:
            is_quoted = len(word.text) > 1 and word.text.endswith('"')
            hint = None
            if kind == "text" and not is_quoted:
                hint = 'end the text with a double quote: "'
            fault = f"this is not a JSON {kind}"
            if str(error) == NUMBER_TOO_LARGE:
                fault = "this number is too large for a double"
            raise ExpressionError(word, fault, hint) from None

    def _list(self) -> Value:
        values = self._elements("]", self.value)
        if all(isinstance(value, Literal) for value in values):
            return Literal([_constant(value) for value in values])
        return ListOf(tuple(values))

    def _object(self) -> Value:
        at = self.peek()
        fields = self._elements("}", self._field)
        if len({key for key, _ in fields}) < len(fields):
            raise ExpressionError(at, "this object has the same key twice")
        if all(isinstance(value, Literal) for _, value in fields):
            return Literal({key: _constant(value) for key, value in fields})
        return ObjectOf(tuple(fields))

    def _field(self) -> Field:
        at = self.peek()
        if self.kind != "string":
            hint = f'write: "{self.text}"' if self.kind == "word" else None
            raise ExpressionError(at, "the key of an object must be a text in quotes", hint)
        key = str(self._literal())
        self.expect(":")
        return key, self.value()

    def _elements(self, end: str, read: Callable[[], T]) -> list[T]:
        """Read elements separated by commas, up to the closing bracket ``end``.

        The next token is the opening bracket.
        """
        elements: list[T] = []
        self.advance()
        while self.text != end:
            if elements and self.text != ",":
                raise self.unexpected(f'"," or "{end}"')
            if elements:
                self.advance()
            elements.append(read())
        self.advance()
        return elements

    def _base64(self, word: Word) -> Value:
        """Read the part of ``base64(reference)`` after the name."""
        if self._is_condition:
            raise ExpressionError(
                word, f"{BASE64} cannot be used in a condition", BASE64_HINT, "F142"
            )
        self.expect("(")
        if self.kind != "word":
            raise ExpressionError(word, f"{BASE64} takes one reference, in parentheses",
                           f"write: {BASE64}(result1)", "F141")  # fmt: skip
        reference = self.scope.reference(self.line, self.take())
        self.unknown_word = self.unknown_word or reference is None
        self.expect(")")
        return Base64(reference or Payload())  # the payload is not used: the error was reported

    def _call_function(self, word: Word) -> Value:
        """Read the part of ``status(call)`` or ``header(call, "name")`` after the name."""
        if word.text not in _CALL_FUNCTIONS:
            functions = 'status(name) and header(name, "x")'
            functions = functions if self._is_condition else f"{BASE64}(ref), {functions}"
            raise ExpressionError(
                word, f"there is no function {word.text}", f"the functions are {functions}"
            )
        self.expect("(")
        if self.kind != "word":
            raise self.unexpected("the name of a call")
        call = self.take()
        number = self.scope.call(self.line, call)
        self.unknown_word = self.unknown_word or number is None
        header = self._header_name() if word.text == "header" else None
        self.expect(")")
        if number is None:
            return Payload()  # not used: the unknown call was reported
        self.scope.note_status_use(self.line, call, number, header)
        return Status(number) if header is None else Header(number, header)

    def _header_name(self) -> str:
        self.expect(",")
        if self.kind != "string":
            raise self.unexpected("the name of a header in quotes")
        return str(self._literal()).lower()


def _constant(value: Value) -> Any:
    return value.value if isinstance(value, Literal) else None


def _comparison_fault(operator: Comparison, left: Expression, right: Expression) -> str | None:
    """Why a comparison with these literals always fails. None if it may succeed."""
    sides = [side.value for side in (left, right) if isinstance(side, Literal)]
    if operator in (Comparison.EQUAL, Comparison.UNEQUAL):
        return None
    if operator is Comparison.IN:
        container = right.value if isinstance(right, Literal) else ""
        is_allowed = isinstance(container, (str, list)) and not isinstance(right, ObjectOf)
        return None if is_allowed else 'the right side of "in" must be a list or a text'
    if None in sides:
        return "null can only be compared with == and !="
    are_texts = [isinstance(side, str) for side in sides if type(side) in (str, int, float)]
    if len(are_texts) < len(sides) or len(set(are_texts)) > 1:
        return f"{operator.value} compares two numbers or two texts"
    return None
