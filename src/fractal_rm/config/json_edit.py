"""Changes single values in the text of a JSON file, and keeps the rest of the text as it is.

The text must be a JSON object that `config.json_text` accepts. New lines get the indentation and
the line ends that the text already has.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

_SPACE = re.compile(r"[ \t\r\n]*")
_FIRST_INDENT = re.compile(r"\n([ \t]+)\"")
_DEFAULT_INDENT = "    "
_MARK = "\ufeff"  # a byte order mark
_decoder = json.JSONDecoder()


class _Member(msgspec.Struct, frozen=True):
    """A key of an object with its value, by their indexes in the text."""

    key: str
    key_start: int
    value_start: int
    value_end: int


class _Object(msgspec.Struct, frozen=True):
    """An object: ``start`` is the index of its "{", and ``end`` that of its "}"."""

    start: int
    end: int
    members: list[_Member]
    has_lines: bool  # its keys are on lines of their own

    def find(self, key: str) -> int | None:
        """The position of a key among the members, or None."""
        return next((n for n, each in enumerate(self.members) if each.key == key), None)


class NotAnObject(ValueError):
    """A key on the path has a value that is not an object."""


def with_value(text: str, path: Sequence[str], value: Any) -> str:
    """Return the text with the value at ``path``: a path of keys. Missing objects are added.

    Raises NotAnObject.
    """
    mark, plain = _without_mark(text)
    return mark + _with_value(_Layout(plain), plain, path, value)


def without_key(text: str, path: Sequence[str]) -> str:
    """Return the text without the last key of ``path``. Raises NotAnObject."""
    mark, plain = _without_mark(text)
    return mark + _without_key(plain, path)


def _without_mark(text: str) -> tuple[str, str]:
    """Split a text into its byte order mark, or "", and the rest."""
    plain = text.removeprefix(_MARK)
    return text[: len(text) - len(plain)], plain


class _Layout:
    """The indentation and the line ends of a text."""

    def __init__(self, text: str) -> None:
        first = _FIRST_INDENT.search(text)
        self.step = first[1] if first else _DEFAULT_INDENT
        self.line_end = "\r\n" if "\r\n" in text else "\n"

    def render(self, value: Any, indent: str, *, in_lines: bool) -> str:
        """Return a value as JSON. With ``in_lines``, its lines begin with ``indent``."""
        if not in_lines:
            return json.dumps(value, ensure_ascii=False)
        lines = json.dumps(value, ensure_ascii=False, indent=self.step).split("\n")
        return f"{self.line_end}{indent}".join(lines)


def _with_value(layout: _Layout, text: str, path: Sequence[str], value: Any) -> str:
    found = _read_object(text, _skip_space(text, 0))
    in_lines = True  # whether the members of the enclosing object are on lines of their own
    for depth, key in enumerate(path):
        position = found.find(key)
        if position is None:
            for inner in reversed(path[depth + 1 :]):
                value = {inner: value}
            return _insert(layout, text, found, key, value, in_lines=in_lines)
        member = found.members[position]
        if depth == len(path) - 1:
            indent = _indent_of_line(text, member.key_start)
            new = layout.render(value, indent, in_lines=found.has_lines)
            return text[: member.value_start] + new + text[member.value_end :]
        in_lines = found.has_lines
        found = _read_object(text, member.value_start)
    raise ValueError("the path is empty")


def _insert(
    layout: _Layout, text: str, found: _Object, key: str, value: Any, *, in_lines: bool
) -> str:
    """Add a key at the end of an object. ``in_lines``: an empty object may get lines."""
    name = json.dumps(key, ensure_ascii=False)
    if found.members:
        end = found.members[-1].value_end
        indent = _indent_of_line(text, found.members[0].key_start)
        new = layout.render(value, indent, in_lines=found.has_lines)
        before = f",{layout.line_end}{indent}" if found.has_lines else ", "
        return f"{text[:end]}{before}{name}: {new}{text[end:]}"
    outer = _indent_of_line(text, found.start)
    indent = outer + layout.step
    new = f"{name}: {layout.render(value, indent, in_lines=in_lines)}"
    if in_lines:
        new = f"{layout.line_end}{indent}{new}{layout.line_end}{outer}"
    return f"{text[: found.start + 1]}{new}{text[found.end :]}"


def _without_key(text: str, path: Sequence[str]) -> str:
    found = _read_object(text, _skip_space(text, 0))
    for depth, key in enumerate(path):
        position = found.find(key)
        if position is None:
            return text
        member = found.members[position]
        if depth < len(path) - 1:
            found = _read_object(text, member.value_start)
            continue
        if position > 0:
            return text[: found.members[position - 1].value_end] + text[member.value_end :]
        if len(found.members) > 1:
            return text[: member.key_start] + text[found.members[1].key_start :]
        return text[: found.start + 1] + text[found.end :]
    return text


def _read_object(text: str, start: int) -> _Object:
    if not text.startswith("{", start):
        raise NotAnObject("a value that must be an object is not one")
    members: list[_Member] = []
    at = _skip_space(text, start + 1)
    has_lines = "\n" in text[start:at]
    while not text.startswith("}", at):
        if members:
            at = _skip_space(text, at + 1)  # after the comma
        key, key_end = _decoder.raw_decode(text, at)
        value_start = _skip_space(text, _skip_space(text, key_end) + 1)
        _, value_end = _decoder.raw_decode(text, value_start)
        members.append(_Member(key, at, value_start, value_end))
        at = _skip_space(text, value_end)
    return _Object(start, at, members, has_lines)


def _skip_space(text: str, at: int) -> int:
    space = _SPACE.match(text, at)
    return space.end() if space else at


def _indent_of_line(text: str, at: int) -> str:
    line = text[text.rfind("\n", 0, at) + 1 : at]
    return line[: len(line) - len(line.lstrip(" \t"))]
