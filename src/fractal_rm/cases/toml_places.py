"""Finds the place of each key of a TOML text, because `tomllib` does not give places.

The text must be valid TOML. This is not checked.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Union

from fractal_rm.domain.findings import Place

# The keys from the top of the file down to a key. A number is an index in a list of tables.
Path = tuple[Union[str, int], ...]

_TEXT = r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
_PIECE = re.compile(rf"(?P<text>{_TEXT})|(?P<comment>#[^\n]*)|(?P<bracket>[\[{{\]}}])|(?P<end>\n)",
                    re.DOTALL)  # fmt: skip
_SPACE = re.compile(r"[ \t\r\n]*")
_KEY = re.compile(r'\s*(?:"((?:\\.|[^"\\\n])*)"|\'([^\'\n]*)\'|([A-Za-z0-9_-]+))\s*')


def find_places(text: str) -> dict[Path, Place]:
    """The place of each table header, and of each key at the start of a line, by its path."""
    found: dict[Path, Place] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    lines = [0, *(end.end() for end in re.finditer("\n", text))]
    for at in _statements(text):
        brackets = 2 if text.startswith("[[", at) else int(text[at] == "[")
        keys, end = _keys(text, at + brackets)
        place = _place(lines, at, end)
        if not brackets:
            _note(found, _resolved(keys, table, counts), place, len(table))
            continue
        table = _resolved(keys[:-1], (), counts) + keys[-1:]
        if brackets == 2:
            counts[table] = counts.get(table, -1) + 1
            found.setdefault(table, place)
            table = (*table, counts[table])
        elif table in counts:
            table = (*table, counts[table])
        found[table] = place
    return found


def _note(found: dict[Path, Place], path: Path, place: Place, table_length: int) -> None:
    """Note the place of a path, and of the tables that a dotted key creates.

    The first ``table_length`` keys of the path are those of the table in which the key is.
    """
    for length in range(table_length + 1, len(path) + 1):
        found.setdefault(path[:length], place)


def _resolved(keys: Path, under: Path, counts: dict[Path, int]) -> Path:
    """The path of ``keys`` below ``under``. For a list of tables, the path of the last table."""
    path = under
    for key in keys:
        path = (*path, key)
        if path in counts:
            path = (*path, counts[path])
    return path


def _statements(text: str) -> Iterator[int]:
    """The start of each table header, and of each key at the start of a line."""
    at = 0
    while at < len(text):
        start = _skip_space(text, at)
        if start >= len(text):
            return
        if text[start] != "#":
            yield start
        at = _end_of_statement(text, start)


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _end_of_statement(text: str, at: int) -> int:
    depth = 0
    for piece in _PIECE.finditer(text, at):
        if piece["bracket"]:
            depth += 1 if piece["bracket"] in "[{" else -1
        elif piece["end"] and depth <= 0:
            return piece.end()
    return len(text)


def _keys(text: str, at: int) -> tuple[Path, int]:
    """The parts of a dotted key, and the end of the key."""
    keys: list[str] = []
    end = at
    while True:
        found = _KEY.match(text, at)
        if found is None:
            return tuple(keys), end
        keys.append(next(part for part in found.groups() if part is not None))
        end = found.end() - (len(found[0]) - len(found[0].rstrip()))
        at = found.end()
        if text[at : at + 1] != ".":
            return tuple(keys), end
        at += 1


def _place(lines: Sequence[int], at: int, end: int) -> Place:
    """The place of the text from ``at`` to ``end``; ``lines`` has the start of each line."""
    line = bisect_right(lines, at)
    return Place(line, at - lines[line - 1] + 1, max(1, end - at))
