"""JSON as this project reads it, wherever it comes from: one strict decoder.

It is stricter than what JSON libraries accept, because each leniency has made two programs read one
message differently, or one that is read later fail: a key given twice, NaN, half of a surrogate
pair, a number that no double holds (RFC 8259, 6 and 8.2; RFC 7493, 2.2), a nesting that exhausts
the stack. What is taken here can be read, evaluated and written again by everything behind it.
"""

from __future__ import annotations

import json
import re
from codecs import BOM_UTF8
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import msgspec

from fractal_rm.domain.refusals import Malformed

MARK = "\ufeff"  # byte order mark
SPACE = " \t\r\n"  # between the parts of a JSON text
MAX_DEPTH = 64
TOO_LARGE = "it has a number that is too large for a double"
T = TypeVar("T")


def read_json(body: bytes) -> Any:
    """What a JSON text says. A byte order mark before it is passed over (RFC 8259, 8.1).

    Raises Malformed.
    """
    body = body.removeprefix(BOM_UTF8)
    check_json(body)
    return msgspec.json.decode(body)


def read_json_as(body: bytes, kind: type[T]) -> T:
    """What `read_json` reads, as a value of ``kind``; members that it does not have are ignored.

    Raises Malformed, and msgspec.ValidationError where it says something else.
    """
    body = body.removeprefix(BOM_UTF8)
    check_json(body)
    return msgspec.json.decode(body, type=kind)


def check_json(body: bytes) -> None:
    """Raise Malformed unless ``body`` is one JSON text as this project reads JSON."""
    try:
        text = body.decode("utf-8").strip(SPACE)
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 at byte {error.start}") from None
    if not text:
        raise Malformed("it is empty")
    if text.count("[") + text.count("{") > MAX_DEPTH and _may_be_deep(text):
        _look_for_depth(text)
    try:
        _, end = _scan(text, 0)
    except StopIteration as stop:
        raise Malformed(f"a value is missing at character {stop.value}") from None
    except msgspec.ValidationError:
        raise Malformed(TOO_LARGE) from None
    except ValueError as error:
        raise Malformed(str(error)) from None
    if end < len(text):
        raise Malformed(f"something follows its end, at character {end}")
    if "\\u" in text:
        _check_pairs(body)


def check_depth(body: bytes) -> None:
    """Raise Malformed where JSON nests deeper than MAX_DEPTH."""
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH:
        text = body.decode()
        if _may_be_deep(text):
            _look_for_depth(text)


def _check_pairs(body: bytes) -> None:
    """Raise Malformed where an escape is half of a surrogate pair: Python's decoder takes it."""
    try:
        _any_decoder.decode(body)
    except msgspec.DecodeError:
        raise Malformed("it has half of a surrogate pair, which is no character") from None


def _may_be_deep(text: str) -> bool:
    """Whether brackets are left when the innermost pairs were taken out MAX_DEPTH times.

    They are where it nests too deep, or is no JSON; and to look at each character is slow.
    """
    left = outside_strings(text).encode("ascii", "ignore").translate(_ALIKE, _NO_BRACKETS)
    for _ in range(MAX_DEPTH):
        if not left:
            return False
        left = left.replace(b"[]", b"")
    return bool(left)


def outside_strings(text: str, most_quotes: int = -1) -> str:
    """A JSON text without what its strings say; what follows on so many quotes stays as it is.

    Made of what takes no time for each character.
    """
    return "".join(_unescaped(text).split('"', most_quotes)[::2])


def _unescaped(text: str) -> str:
    """A text as long as a JSON text, in which each quote begins or ends a string."""
    if "\\" not in text:
        return text
    return text.replace("\\\\", "..").replace('\\"', "..")


def _look_for_depth(text: str) -> None:
    """Raise Malformed where brackets nest deeper than MAX_DEPTH; strings are stepped over."""
    depth = 0
    for found in _STRING_OR_BRACKET.finditer(_unescaped(text)):
        c = text[found.start()]
        if c in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Malformed(f"nested deeper than {MAX_DEPTH} at character {found.start()}")
        elif c != '"':
            depth -= 1


def _refuse_twins(pairs: list[tuple[str, Any]]) -> None:
    """Only the checks matter here, so nothing is built."""
    if len(pairs) > 1:
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise ValueError(f"the key {key[:40]!r} is given twice")
            seen.add(key)


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


_ALIKE = bytes.maketrans(b"{}", b"[]")
_NO_BRACKETS = bytes(range(128)).translate(None, b"[]{}")
_STRING_OR_BRACKET = re.compile(r'"[^"]*(?:"|\Z)|[][{}]')
_any_decoder = msgspec.json.Decoder(msgspec.Raw)
# Quicker than Python's own reading of a number, which makes Infinity of 1e400.
_number = msgspec.json.Decoder(float).decode
_strict: Any = json.JSONDecoder(
    object_pairs_hook=_refuse_twins,
    parse_constant=_refuse_constant,
    parse_float=_number,
    parse_int=_number,
)
# Without the wrapper that looks for space around it; its stub does not know it.
_scan: Callable[[str, int], tuple[Any, int]] = _strict.scan_once
