"""The strict decoder for JSON from outside this program.

JSON libraries also accept duplicate keys, NaN, half of a surrogate pair, numbers that are too large
for a double (RFC 8259, 6 and 8.2; RFC 7493, 2.2), and nesting that exhausts the stack. Two programs
may decode such JSON differently, or a later step may fail on it. So such JSON is refused here, and
all other code can parse, evaluate and encode any accepted JSON.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import msgspec

from fractal_rm.domain.refusals import Malformed

BYTE_ORDER_MARK = "\ufeff"
WHITE_SPACE = " \t\r\n"  # the white space of JSON
MAX_DEPTH = 64
NUMBER_TOO_LARGE = "it has a number that is too large for a double"
T = TypeVar("T")


def read_json(body: bytes) -> Any:
    """Parse JSON. A leading byte order mark is ignored (RFC 8259, 8.1). Raises Malformed."""
    body = body.removeprefix(BOM_UTF8)
    check_json(body)
    return msgspec.json.decode(body)


def read_json_as(body: bytes, kind: type[T]) -> T:
    """Parse JSON as `read_json` does, into a value of type ``kind``. Unknown keys are ignored.

    Raises Malformed, and msgspec.ValidationError if the JSON does not fit the type.
    """
    body = body.removeprefix(BOM_UTF8)
    check_json(body)
    return msgspec.json.decode(body, type=kind)


def check_json(body: bytes) -> None:
    """Raise Malformed unless ``body`` is one JSON text that this decoder accepts."""
    try:
        text = body.decode("utf-8").strip(WHITE_SPACE)
    except UnicodeDecodeError as error:
        raise Malformed(f"byte {error.start} is not UTF-8") from None
    if not text:
        raise Malformed("it is empty")
    if text.count("[") + text.count("{") > MAX_DEPTH and _may_be_deep(text):
        _check_each_depth(text)
    try:
        _, end = _scan(text, 0)
    except StopIteration as stop:
        raise Malformed(f"a value is missing at character {stop.value}") from None
    except msgspec.ValidationError:
        raise Malformed(NUMBER_TOO_LARGE) from None
    except ValueError as error:
        raise Malformed(str(error)) from None
    if end < len(text):
        raise Malformed(f"there is text after the JSON, at character {end}")
    if "\\u" in text:
        _check_pairs(body)


def check_depth(body: bytes) -> None:
    """Raise Malformed if JSON nests deeper than MAX_DEPTH."""
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        text = body.decode()
        if _may_be_deep(text):
            _check_each_depth(text)


def _check_pairs(body: bytes) -> None:
    """Raise Malformed if an escape is half of a surrogate pair. Python's decoder accepts those."""
    try:
        _any_decoder.decode(body)
    except msgspec.DecodeError:
        raise Malformed("it has half of a surrogate pair, which is no character") from None


def _may_be_deep(text: str) -> bool:
    """Whether JSON may nest deeper than MAX_DEPTH. This check is fast but not exact.

    The innermost pairs of brackets are removed MAX_DEPTH times. If brackets remain, they are nested
    too deeply, or the text is not JSON.
    """
    brackets = outside_strings(text).encode("ascii", "ignore").translate(_SQUARE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not brackets:
            return False
        brackets = brackets.replace(b"[]", b"")
    return bool(brackets)


def outside_strings(text: str, max_quotes: int = -1) -> str:
    """A JSON text without its strings. Text after the first ``max_quotes`` quotes is unchanged.

    This function uses only string methods that are fast on long texts.
    """
    return "".join(_unescaped(text).split('"', max_quotes)[::2])


def _unescaped(text: str) -> str:
    """Replace escaped backslashes and quotes by dots. The other quotes begin or end a string."""
    if "\\" not in text:
        return text
    return text.replace("\\\\", "..").replace('\\"', "..")


def _check_each_depth(text: str) -> None:
    """Raise Malformed if brackets outside strings nest deeper than MAX_DEPTH."""
    depth = 0
    for match in _STRING_OR_BRACKET.finditer(_unescaped(text)):
        c = text[match.start()]
        if c in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Malformed(f"nested deeper than {MAX_DEPTH} at character {match.start()}")
        elif c != '"':
            depth -= 1


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> None:
    """Raise ValueError if an object has a key twice. The object itself is not built."""
    if len(pairs) > 1:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:40]!r} is given twice")
            seen.add(key)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_SQUARE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(range(128)).translate(None, b"[]{}")
_STRING_OR_BRACKET = re.compile(r'"[^"]*(?:"|\Z)|[][{}]')
_any_decoder = msgspec.json.Decoder(msgspec.Raw)
# This parser is faster than Python's parser for numbers, which turns 1e400 into Infinity.
_number = msgspec.json.Decoder(float).decode
_strict: Any = json.JSONDecoder(
    object_pairs_hook=_refuse_duplicate_keys,
    parse_constant=_refuse_constant,
    parse_float=_number,
    parse_int=_number,
)
# The scanner of the decoder, which the type stub omits. It accepts no white space around the text.
_scan: Callable[[str, int], tuple[Any, int]] = _strict.scan_once
