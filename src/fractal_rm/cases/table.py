"""Reading one TOML table: each key once, with its type; everything else is a finding."""

from __future__ import annotations

import math
import re
import sys
from base64 import b64decode
from collections.abc import Callable, Collection, Mapping
from functools import cached_property
from importlib import import_module
from typing import Any, TypeVar, cast

from fractal_rm.cases.toml_places import Path, places
from fractal_rm.config.mask import mask
from fractal_rm.domain.findings import Finding, Place, did_you_mean
from fractal_rm.domain.strict_json import MAX_DEPTH
from fractal_rm.flowlang.duration import LIKE, duration_ms

T = TypeVar("T")
# tomli is the standard library's tomllib for Python 3.10.
_TOML = import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
_loads: Callable[[str], dict[str, Any]] = _TOML.loads
_KINDS: tuple[tuple[type, str], ...] = (
    (bool, "true or false"),  # before the numbers: in Python a bool is an int
    (dict, "a table"),
    (list, "a list"),
    (str, "a text"),
    (int, "a whole number"),
    (float, "a number"),
)
_AT = re.compile(r" \(at (?:line (\d+), column (\d+)|end of document)\)$")


class TomlFile:
    """One TOML file, with the places of its keys and the findings about it."""

    def __init__(self, file: str, text: str) -> None:
        self.file = file
        self.findings: list[Finding] = []
        self._text = text
        self._places: dict[Path, Place] = {}

    @cached_property
    def _lines(self) -> list[str]:
        """The lines that findings show, without secrets."""
        return mask(self._text).split("\n")

    def root(self) -> Table:
        """The file's own table; an empty one, with a finding, if it is not TOML."""
        try:
            content = _loads(self._text.replace("\r\n", "\n"))
        except ValueError as error:
            self._broken(str(error))
            return Table(self, (), {})
        except RecursionError:
            self.add("T301", Place(), "it is nested too deeply to be read")
            return Table(self, (), {})
        self._places = places(self._text)
        return Table(self, (), content)

    def place(self, path: Path) -> Place:
        """The place of a path; for a value inside an inline table, that of the line's key."""
        while path and path not in self._places:
            path = path[:-1]
        return self._places.get(path, Place())

    def add(self, code: str, place: Place, text: str, hint: str | None = None) -> None:
        """Add a finding."""
        line = self._lines[place.line - 1].rstrip("\r") if place.line else ""
        self.findings.append(Finding(self.file, place, code, text, hint, text_line=line))

    def _broken(self, why: str) -> None:
        at = _AT.search(why)
        line = self._text.count("\n") + 1
        place = Place(int(at[1]), int(at[2])) if at and at[1] else Place(line, 1)
        self.add("T301", place, f"this is not TOML: {_AT.sub('', why)}")


class Table:
    """A table of the file. ``path`` is its path in the file."""

    def __init__(self, source: TomlFile, path: Path, members: Mapping[str, Any]) -> None:
        self._source = source
        self._path = path
        self._members = members
        self._asked: set[str] = set()

    @property
    def line(self) -> int:
        """The line at which it begins."""
        return self._source.place(self._path).line

    # --- values -------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        self._asked.add(key)
        return key in self._members

    def keys(self) -> list[str]:
        """All keys, for tables whose keys are names."""
        self._asked.update(self._members)
        return list(self._members)

    def text(self, key: str) -> str | None:
        """A text."""
        return self._get(key, str)

    def needed_text(self, key: str) -> str:
        """A text that must be there."""
        if not self.has(key):
            self.missing(key)
        return self._get(key, str) or ""

    def whole(self, key: str, default: int, at_least: int, at_most: int) -> int:
        """A whole number within a range."""
        value = self._get(key, int)
        if value is None:
            return default
        if not at_least <= value <= at_most:
            self.bad(key, f"{key} must be from {at_least} to {at_most}")
            return default
        return value

    def flag(self, key: str) -> bool | None:
        """True or false."""
        return self._get(key, bool)

    def identifier(self, key: str) -> str | None:
        """A whole number or a text, as text: 2 and "2" are the same id."""
        value = self._get(key, int, str)
        return None if value is None else str(value)

    def one_of(self, key: str, allowed: Collection[str]) -> str | None:
        """One of the allowed texts."""
        value = self._get(key, str)
        if value is not None and value not in allowed:
            hint = did_you_mean(value, allowed) or "there is " + ", ".join(allowed)
            self.bad(key, f'{key} is "{value}"', hint)
            return None
        return value

    def duration_ms(self, key: str) -> int | None:
        """A duration, in milliseconds; it may be 0."""
        text = self._get(key, str)
        if text is None:
            return None
        ms = 0 if text in ("0ms", "0s") else duration_ms(text)
        if ms is None:
            self.bad(key, f'{key} is "{text}", and should be {LIKE}')
        return ms

    def moment_ms(self, key: str) -> int | None:
        """A date and time with its zone, as milliseconds since 1970."""
        value = self._members.get(key) if self.has(key) else None
        if value is None:
            return None
        if getattr(value, "tzinfo", None) is None:
            self.bad(key, f"{key} must be a date and time with its zone", _MOMENT, "C205")
            return None
        return round(value.timestamp() * 1000)

    def base64(self, key: str) -> bytes | None:
        """Bytes, written in base64 (RFC 4648, 4)."""
        text = self._get(key, str)
        if text is None:
            return None
        try:
            return b64decode(text, validate=True)
        except ValueError:
            self.bad(key, f"{key} is not base64", "such as /9j/4AAQ")
            return None

    def json(self, key: str, default: Any = None) -> Any:
        """Any JSON value."""
        if not self.has(key):
            return default
        value = self._members[key]
        if not _is_json(value):
            self.bad(key, f"{key} holds a value that JSON does not have", _JSON_LIMITS, "C205")
            return default
        return value

    def items(self, key: str) -> list[Any] | None:
        """A list of anything."""
        return self._get(key, list)

    def table(self, key: str) -> Table | None:
        """A table, or None where it is absent."""
        value = self._get(key, dict)
        return None if value is None else Table(self._source, (*self._path, key), value)

    def tables(self, key: str, read: Callable[[Table], T]) -> tuple[T, ...] | None:
        """Every table of a list of them, read; None where it is absent."""
        values = self._get(key, list)
        if values is None:
            return None
        found: list[T] = []
        for number, value in enumerate(values):
            path = (*self._path, key, number)
            if isinstance(value, dict):
                found.append(read(Table(self._source, path, cast("dict[str, Any]", value))))
            else:
                place = self._source.place(path)
                self._source.add("C205", place, f"{key} must hold tables, not {_kind(value)}")
        return tuple(found)

    # --- findings -----------------------------------------------------------------------------

    def missing(self, key: str) -> None:
        """A key that must be there is not."""
        self._source.add("C204", self._source.place(self._path), f"{key} is missing", _WRITE % key)

    def bad(self, key: str, text: str, hint: str | None = None, code: str = "C206") -> None:
        """The value of a key cannot be used."""
        self._source.add(code, self._source.place((*self._path, key)), text, hint)

    def finish(self) -> None:
        """Call it last: each key that was never asked for is a finding."""
        for key in self._members:
            if key not in self._asked:
                known = sorted(self._asked)
                hint = did_you_mean(key, known) or "there is " + ", ".join(known)
                self.bad(key, f'"{key}" is not known here', hint, "C203")

    def _get(self, key: str, *kinds: type) -> Any:
        if not self.has(key):
            return None
        value: object = self._members[key]
        if type(value) in kinds:
            return value
        wanted = " or ".join(name for kind, name in _KINDS if kind in kinds)
        hint = None
        if kinds == (list,) and isinstance(value, dict):
            hint = f"write [[{'.'.join(p for p in (*self._path, key) if isinstance(p, str))}]]"
        self.bad(key, f"{key} must be {wanted}, not {_kind(self._members[key])}", hint, "C205")
        return None


_JSON_LIMITS = f"no date, time, inf or nan, and nothing deeper than {MAX_DEPTH}: put it in quotes"
_WRITE = 'write a line that begins with "%s = "'
_MOMENT = "such as 2026-01-01T06:00:00Z"


def _kind(value: object) -> str:
    return next((name for kind, name in _KINDS if isinstance(value, kind)), "a date or a time")


def _is_json(value: object, depth: int = 0) -> bool:
    """Whether it can be a payload or a body: within the limits of depth and of numbers."""
    if isinstance(value, (dict, list)):
        whole = cast("dict[str, object] | list[object]", value)
        inner = whole.values() if isinstance(whole, dict) else whole
        return depth < MAX_DEPTH and all(_is_json(each, depth + 1) for each in inner)
    if isinstance(value, float):
        return math.isfinite(value)
    return isinstance(value, str) or (isinstance(value, int) and -(2**63) <= value < 2**64)
