"""JSON as this project reads it, wherever it comes from: one strict decoder.

It is stricter than what JSON libraries accept, because each leniency has made two programs read one
message differently: a key given twice, NaN, a nesting that exhausts the stack.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, NoReturn

from fractal_rm.domain.errors import Malformed

MAX_DEPTH = 64


def check_json(body: bytes) -> None:
    """Raise Malformed unless ``body`` is one JSON text as this project reads JSON."""
    try:
        text = body.decode("utf-8").strip(_SPACE)
    except UnicodeDecodeError as error:
        raise Malformed(f"not UTF-8 at byte {error.start}") from None
    if not text:
        raise Malformed("it is empty")
    if text.count("[") + text.count("{") > MAX_DEPTH:
        _check_depth(text)
    try:
        _, end = _scan(text, 0)
    except StopIteration as stop:
        raise Malformed(f"a value is missing at character {stop.value}") from None
    except ValueError as error:
        raise Malformed(str(error)) from None
    if end < len(text):
        raise Malformed(f"something follows its end, at character {end}")


def _check_depth(text: str) -> None:
    """Raise Malformed where brackets nest deeper than MAX_DEPTH; strings are stepped over."""
    depth = 0
    in_string = escaped = False
    for position, c in enumerate(text):
        if in_string:
            if escaped:
                escaped = False
            elif c == "\\":
                escaped = True
            elif c == '"':
                in_string = False
        elif c == '"':
            in_string = True
        elif c in "[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise Malformed(f"nested deeper than {MAX_DEPTH} at character {position}")
        elif c in "]}":
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


_SPACE = " \t\r\n"
_strict: Any = json.JSONDecoder(object_pairs_hook=_refuse_twins, parse_constant=_refuse_constant)
# Without the wrapper that looks for space around it; its stub does not know it.
_scan: Callable[[str, int], tuple[Any, int]] = _strict.scan_once
