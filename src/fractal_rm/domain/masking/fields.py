"""Finds the fields of MASK in values, and replaces their values by stars.

A path is names with dots between them: ``person.name``. It is found at any depth: wherever a field
``person`` is, directly or in a list, the value of its field ``name`` is masked. The name ``*`` is
any name. A name may be in quotes.
"""

from __future__ import annotations

import json
import re
from functools import lru_cache
from typing import Any, cast

from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import BYTE_ORDER_MARK, read_json

STARS = "*****"
ANY_NAME = "*"
NAME = r'"(?:[^"\\]|\\.)+"|[^\s.,"\[\]]+'
PATH = re.compile(rf"(?:{NAME})(?:\.(?:{NAME}))*")
_NAME = re.compile(NAME)

Names = tuple[str, ...]


def names_in(path: str) -> Names:
    """The names of a path that matches `PATH`, without quotes."""
    return tuple(json.loads(name) if name.startswith('"') else name for name in _NAME.findall(path))


class FieldMask:
    """Masks the fields of ``paths`` in values."""

    def __init__(self, paths: tuple[str, ...]) -> None:
        self._paths = [names_in(path) for path in paths]
        self._last_names = [path[-1] for path in self._paths]
        self._names = {path[-1].lower() for path in self._paths}

    def is_masked_name(self, name: str) -> bool:
        """Whether a header or parameter with this name is masked."""
        return name.lower() in self._names

    def json(self, raw: bytes) -> bytes | None:
        """Mask a JSON value. Returns None if nothing in it is masked.

        A text that is not JSON is masked as a whole: it is not known which fields it has.
        """
        try:
            value = read_json(raw)
            masked = self._text(value, []) if isinstance(value, str) else self._value(value, [])
        except (Malformed, RecursionError):
            return json.dumps(STARS).encode()
        if masked == value:
            return None
        return json.dumps(masked, ensure_ascii=False, separators=(",", ":")).encode()

    def _text(self, text: str, open_paths: list[Names]) -> str:
        """Mask a text that is a whole value. It is usually JSON."""
        if not text:
            return text
        masked = self._json_text(text, open_paths)
        return STARS if masked is None else masked

    def _json_text(self, text: str, open_paths: list[Names]) -> str | None:
        """Mask a text that is JSON. An unchanged text keeps its form.

        None: it is not JSON by the strict rules. A key that is given twice could hide a field.
        """
        try:
            value = read_json(text.removeprefix(BYTE_ORDER_MARK).encode())
            masked = self._value(value, open_paths)
        except (Malformed, RecursionError, UnicodeEncodeError):
            return None
        if masked == value:
            return text
        return json.dumps(masked, ensure_ascii=False, separators=(",", ":"))

    def _value(self, value: Any, open_paths: list[Names]) -> Any:
        """Mask a value. ``open_paths``: the rests of paths that began in fields around it."""
        if isinstance(value, dict):
            members = cast("dict[str, Any]", value)
            return {name: self._member(name, each, open_paths) for name, each in members.items()}
        if isinstance(value, list):
            return [self._value(each, open_paths) for each in cast("list[Any]", value)]
        if isinstance(value, str) and value.lstrip(BYTE_ORDER_MARK + " \t\r\n")[:1] in ("{", "["):
            return self._inner_text(value, open_paths)
        return value

    def _inner_text(self, text: str, open_paths: list[Names]) -> str:
        """Mask a text within a value that looks like JSON.

        If it is not JSON, it is masked as a whole if it contains the name of a masked field.
        """
        masked = self._json_text(text, open_paths)
        if masked is not None:
            return masked
        is_suspect = any(name == ANY_NAME or name in text for name in self._last_names)
        return STARS if is_suspect else text

    def _member(self, name: str, value: Any, open_paths: list[Names]) -> Any:
        inner_paths: list[Names] = []
        for path in (*self._paths, *open_paths):
            if path[0] in (name, ANY_NAME):
                if len(path) == 1:
                    return None if value is None else STARS
                inner_paths.append(path[1:])
        return self._value(value, inner_paths)


@lru_cache(maxsize=256)  # a node has few flows with MASK
def field_mask(paths: tuple[str, ...]) -> FieldMask:
    """The mask for the paths of a flow."""
    return FieldMask(paths)
