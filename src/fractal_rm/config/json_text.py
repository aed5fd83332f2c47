"""Reads JSON. Each value has its place in the text, which findings show."""

from __future__ import annotations

import json
import math
import re
from bisect import bisect_right
from typing import Union

import msgspec

from fractal_rm.domain.findings import Place

MAX_DEPTH = 64
MAX_VALUES = 50_000  # a value takes 0.3 KB of memory
# The maximum length of a number. Python cannot read an integer with more than 4,300 digits.
MAX_NUMBER_CHARACTERS = 1_000
_SPACE = re.compile(r"[ \t\r\n]*")
_STRING = re.compile(r'"(?:[^"\\\x00-\x1f]|\\.)*"')
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")
LONE_SURROGATE = re.compile(r"[\ud800-\udfff]")
_WORDS = {"true": True, "false": False, "null": None}

Plain = Union[str, int, float, bool, None]


class Value(msgspec.Struct):
    """A JSON value and its place. For an object, ``keys`` has the place of each key."""

    plain: Plain | dict[str, Value] | list[Value]
    place: Place
    keys: dict[str, Place] = {}


class JsonFault(Exception):
    """The text is not valid JSON. ``place`` is the place of the fault.

    ``code`` is the code of the finding that reports the fault.
    """

    def __init__(self, place: Place, text: str, code: str = "C202") -> None:
        super().__init__(text)
        self.place = place
        self.code = code


def parse_json(text: str) -> Value:
    """Read one JSON text (RFC 8259). Raises JsonFault, for example if a key is given twice."""
    reader = _Reader(text.removeprefix("\ufeff"))
    value = reader.read_value(depth=0)
    reader.skip_space()
    if reader.at < len(reader.text):
        raise reader.fault("the end of the file is expected here")
    return value


class _Reader:
    """Reads values from a text. ``at`` is the index of the next character to read."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.at = 0
        self._values = 0
        self._line_starts = [0, *(end.end() for end in re.finditer("\n", text))]

    def place(self, index: int, width: int = 1) -> Place:
        line = bisect_right(self._line_starts, index)
        return Place(line, index - self._line_starts[line - 1] + 1, width)

    def fault(self, text: str) -> JsonFault:
        if self.at >= len(self.text):
            return JsonFault(self.place(len(self.text.rstrip())), "the file ends too early")
        return JsonFault(self.place(self.at), text)

    def skip_space(self) -> None:
        space = _SPACE.match(self.text, self.at)
        self.at = space.end() if space else self.at

    def take(self, token: str) -> bool:
        """Skip white space. If ``token`` follows, also skip the token and return True."""
        self.skip_space()
        if not self.text.startswith(token, self.at):
            return False
        self.at += len(token)
        return True

    def read_value(self, *, depth: int) -> Value:
        self.skip_space()
        if depth > MAX_DEPTH:
            raise self.fault(f"this is nested more than {MAX_DEPTH} levels deep")
        self._values += 1
        if self._values > MAX_VALUES:
            place = self.place(self.at)
            raise JsonFault(place, f"there are more than {MAX_VALUES:,} values", "C232")
        start = self.at
        if self.take("{"):
            return self._object(start, depth)
        if self.take("["):
            return self._array(start, depth)
        if self.text.startswith('"', start):
            return Value(self._string(), self.place(start, self.at - start))
        number = _NUMBER.match(self.text, start)
        if number:
            return Value(self._number(number), self.place(start, len(number[0])))
        for word, plain in _WORDS.items():
            if self.take(word):
                return Value(plain, self.place(start, len(word)))
        raise self.fault("a value is expected here")

    def _number(self, number: re.Match[str]) -> int | float:
        if len(number[0]) > MAX_NUMBER_CHARACTERS:
            raise self.fault(f"this number is longer than {MAX_NUMBER_CHARACTERS} characters")
        if math.isinf(float(number[0])):
            place = self.place(self.at, len(number[0]))
            raise JsonFault(place, "this number is too large for a double", "C206")
        self.at = number.end()
        return json.loads(number[0])

    def _object(self, start: int, depth: int) -> Value:
        members: dict[str, Value] = {}
        keys: dict[str, Place] = {}
        while not self.take("}"):
            if members and not self.take(","):
                raise self.fault('"," or "}" is expected here')
            self.skip_space()
            key_start = self.at
            if not self.text.startswith('"', key_start):
                raise self.fault("a key in double quotes is expected here")
            key = self._string()
            place = self.place(key_start, self.at - key_start)
            if key in members:
                raise JsonFault(place, f'the key "{key}" is given twice', "C210")
            if not self.take(":"):
                raise self.fault('":" is expected here')
            keys[key] = place
            members[key] = self.read_value(depth=depth + 1)
        return Value(members, self.place(start), keys)

    def _array(self, start: int, depth: int) -> Value:
        items: list[Value] = []
        while not self.take("]"):
            if items and not self.take(","):
                raise self.fault('"," or "]" is expected here')
            items.append(self.read_value(depth=depth + 1))
        return Value(items, self.place(start))

    def _string(self) -> str:
        string = _STRING.match(self.text, self.at)
        if string is None:
            raise self.fault("this string has no end, or has a control character")
        try:
            text = json.loads(string[0])
        except ValueError:
            raise self.fault("this string has a bad escape") from None
        if LONE_SURROGATE.search(text):  # UTF-8 cannot encode such a text (RFC 8259, 8.2)
            raise self.fault("this string has half of a surrogate pair")
        self.at = string.end()
        return text
