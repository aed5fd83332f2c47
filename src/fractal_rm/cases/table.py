"""Reads the TOML tables of a file of cases; see `config.key_reader`."""

from __future__ import annotations

import math
import re
import sys
from base64 import b64decode
from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any, ClassVar, TypeVar, cast

from fractal_rm.cases.toml_places import Path, find_places
from fractal_rm.config.key_reader import CheckedFile, KeyReader
from fractal_rm.domain.findings import Place
from fractal_rm.domain.strict_json import MAX_DEPTH
from fractal_rm.flowlang.duration import DURATION_HINT, duration_ms

T = TypeVar("T")
# Python 3.10 does not have tomllib. The package tomli has the same functions.
_TOML = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
_loads: Callable[[str], dict[str, Any]] = _TOML.loads
# The place at the end of the message of a syntax error. Before Python 3.14, the error of tomllib
# has no attributes for the place.
_PLACE_IN_MESSAGE = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class TomlFile(CheckedFile):
    """One TOML file, with the places of its keys."""

    def __init__(self, file: str, text: str) -> None:
        super().__init__(file, text, [])
        self._places: dict[Path, Place] = {}

    def root(self) -> Table:
        """Return the top-level table.

        If the file is not TOML, add a finding and return an empty table.
        """
        try:
            content = _loads(self.text.replace("\r\n", "\n"))
        except ValueError as error:
            self._add_syntax_finding(str(error))
            return Table(self, (), {})
        except RecursionError:
            self.add("T301", Place(), "the file has too many nested levels")
            return Table(self, (), {})
        self._places = find_places(self.text)
        return Table(self, (), content)

    def place(self, path: Path) -> Place:
        """The place of a key. If the key is in an inline table, the place of that table's key."""
        while path and path not in self._places:
            path = path[:-1]
        return self._places.get(path, Place())

    def _add_syntax_finding(self, message: str) -> None:
        match = _PLACE_IN_MESSAGE.search(message)
        last_line = self.text.count("\n") + 1
        place = Place(int(match[1]), int(match[2])) if match and match[1] else Place(last_line, 1)
        self.add("T301", place, f"this is not TOML: {_PLACE_IN_MESSAGE.sub('', message)}")


class Table(KeyReader):
    """A table of the file. ``path`` has the keys that lead from the top level to the table."""

    kinds: ClassVar[Mapping[type, str]] = {
        bool: "true or false", dict: "a table", list: "a list", str: "a text",
        int: "a whole number", float: "a number",
    }  # fmt: skip
    missing_hint: ClassVar[str | None] = 'write a line that begins with "%s = "'

    def __init__(self, file: TomlFile, path: Path, values: Mapping[str, Any]) -> None:
        super().__init__(file, values)
        self._toml = file
        self._path = path
        self._values = values

    @property
    def line(self) -> int:
        """The line at which the table begins."""
        return self._place(None).line

    # --- the format -------------------------------------------------------------------------------

    def _plain(self, key: str) -> Any:
        return self._values.get(key)

    def _place(self, key: str | None) -> Place:
        path = self._path if key is None else (*self._path, key)
        return self._toml.place(path)

    def _kind_hint(self, key: str, value: object, kinds: tuple[type, ...]) -> str | None:
        if kinds != (list,) or not isinstance(value, dict):
            return None
        return f"write [[{'.'.join(part for part in (*self._path, key) if isinstance(part, str))}]]"

    def _kind_of(self, value: object) -> str:
        return self.kinds.get(type(value), "a date or a time")

    # --- values -----------------------------------------------------------------------------------

    def duration_ms(self, key: str) -> int | None:
        """Read a duration, in milliseconds. A duration of 0 is allowed."""
        text = self._get(key, str)
        if text is None:
            return None
        ms = 0 if text in ("0ms", "0s") else duration_ms(text)
        if ms is None:
            self.bad(key, f'{key} is "{text}", and should be {DURATION_HINT}')
        return ms

    def moment_ms(self, key: str) -> int | None:
        """Read a date and time with a time zone, as milliseconds since 1970."""
        value = self._values.get(key) if self.has(key) else None
        if value is None:
            return None
        if getattr(value, "tzinfo", None) is None:
            self.bad(key, f"{key} must be a date and time with a time zone", _MOMENT, "C205")
            return None
        return round(value.timestamp() * 1000)

    def base64(self, key: str) -> bytes | None:
        """Read a text in base64 (RFC 4648, 4), and return the decoded bytes."""
        text = self._get(key, str)
        if text is None:
            return None
        try:
            return b64decode(text, validate=True)
        except ValueError:
            self.bad(key, f"{key} is not base64", "write base64 such as /9j/4AAQ")
            return None

    def json(self, key: str, default: Any = None) -> Any:
        """Read any JSON value."""
        if not self.has(key):
            return default
        value = self._values[key]
        if not _is_json(value):
            self.bad(key, f"{key} has a value that JSON cannot represent", _JSON_LIMITS, "C205")
            return default
        return value

    def items(self, key: str) -> list[Any] | None:
        """Read a list. Its values may have any type."""
        return self._get(key, list)

    def table(self, key: str) -> Table | None:
        """Read a table. None if it is absent."""
        value = self._get(key, dict)
        return None if value is None else Table(self._toml, (*self._path, key), value)

    def tables(self, key: str, read: Callable[[Table], T]) -> tuple[T, ...] | None:
        """Read a list of tables: call ``read`` with each table, and return the results.

        Returns None if the list is absent.
        """
        values = self._get(key, list)
        if values is None:
            return None
        results: list[T] = []
        for number, value in enumerate(values):
            path = (*self._path, key, number)
            if isinstance(value, dict):
                results.append(read(Table(self._toml, path, cast("dict[str, Any]", value))))
            else:
                place = self._toml.place(path)
                self._toml.add(
                    "C205", place, f"{key} must contain tables, not {self._kind_of(value)}"
                )
        return tuple(results)


_JSON_LIMITS = (
    f"write dates, times, inf and nan in quotes; use at most {MAX_DEPTH} levels and 64-bit numbers"
)
_MOMENT = "write it like 2026-01-01T06:00:00Z"


def _is_json(value: object, depth: int = 0) -> bool:
    """Whether a value can be written as JSON.

    It may have at most `MAX_DEPTH` levels, and only integers of 64 bits.
    """
    if isinstance(value, (dict, list)):
        container = cast("dict[str, object] | list[object]", value)
        inner = container.values() if isinstance(container, dict) else container
        return depth < MAX_DEPTH and all(_is_json(each, depth + 1) for each in inner)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**64)
