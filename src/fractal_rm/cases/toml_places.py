"""Finds the place of each key of a TOML text, because `tomllib` does not give places.

The text must be valid TOML. This is not checked.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import Union

from fractal_rm.domain.findings import Place

# The keys that lead from the top level to a key. A number is an index in a list of tables.
Path = tuple[Union[str, int], ...]

_TEXT = r'"""(?:\\.|[^\\])*?"{3,5}|\'\'\'.*?\'{3,5}|"(?:\\.|[^"\\\n])*"|\'[^\'\n]*\''
_PIECE = re.compile(rf"(?P<text>{_TEXT})|(?P<comment>#[^\n]*)|(?P<bracket>[\[{{\]}}])|(?P<end>\n)",
                    re.DOTALL)  # fmt: skip
_SPACE = re.compile(r"[ \t\r\n]*")
_KEY = re.compile(r'\s*(?:"((?:\\.|[^"\\\n])*)"|\'([^\'\n]*)\'|([A-Za-z0-9_-]+))\s*')


def find_places(text: str) -> dict[Path, Place]:
    """Return, by path, the place of each table header and of each key at the start of a line."""
    places: dict[Path, Place] = {}
    counts: dict[Path, int] = {}
    table: Path = ()
    lines = [0, *(end.end() for end in re.finditer("\n", text))]
    for start in _statements(text):
        brackets = 2 if text.startswith("[[", start) else int(text[start] == "[")
        keys, end = _keys(text, start + brackets)
        place = _place(lines, start, end)
        if not brackets:
            _add_place(places, _resolved(keys, table, counts), place, len(table))
            continue
        table = _resolved(keys[:-1], (), counts) + keys[-1:]
        if brackets == 2:
            counts[table] = counts.get(table, -1) + 1
            places.setdefault(table, place)
            table = (*table, counts[table])
        elif table in counts:
            table = (*table, counts[table])
        places[table] = place
    return places


def _add_place(places: dict[Path, Place], path: Path, place: Place, table_length: int) -> None:
    """Add the place of a path. The tables that a dotted key creates get the same place.

    The first ``table_length`` keys of ``path`` are the path of the table that contains the key.
    """
    for length in range(table_length + 1, len(path) + 1):
        places.setdefault(path[:length], place)


def _resolved(keys: Path, parent: Path, counts: dict[Path, int]) -> Path:
    """Append ``keys`` to the path ``parent``. A key of a list of tables gets its last index."""
    path = parent
    for key in keys:
        path = (*path, key)
        if path in counts:
            path = (*path, counts[path])
    return path


def _statements(text: str) -> Iterator[int]:
    """Yield the index of each table header, and of each key at the start of a line."""
    end = 0
    while end < len(text):
        start = _skip_space(text, end)
        if start >= len(text):
            return
        if text[start] != "#":
            yield start
        end = _end_of_statement(text, start)


def _skip_space(text: str, start: int) -> int:
    match = _SPACE.match(text, start)
    return match.end() if match else start


def _end_of_statement(text: str, start: int) -> int:
    depth = 0
    for piece in _PIECE.finditer(text, start):
        if piece["bracket"]:
            depth += 1 if piece["bracket"] in "[{" else -1
        elif piece["end"] and depth <= 0:
            return piece.end()
    return len(text)


def _keys(text: str, start: int) -> tuple[Path, int]:
    """Return the parts of the dotted key at ``start``, and the index at which the key ends."""
    keys: list[str] = []
    next_start = end = start
    while True:
        match = _KEY.match(text, next_start)
        if match is None:
            return tuple(keys), end
        keys.append(next(part for part in match.groups() if part is not None))
        end = match.end() - (len(match[0]) - len(match[0].rstrip()))
        if text[match.end() : match.end() + 1] != ".":
            return tuple(keys), end
        next_start = match.end() + 1


def _place(lines: Sequence[int], start: int, end: int) -> Place:
    """The place of the text from ``start`` to ``end``. ``lines`` has the start of each line."""
    line = bisect_right(lines, start)
    return Place(line, start - lines[line - 1] + 1, max(1, end - start))
