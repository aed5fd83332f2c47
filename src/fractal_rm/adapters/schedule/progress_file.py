"""The file in the state folder that stores the progress of all schedules."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated

import msgspec

from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.steady import MAX_MS
from fractal_rm.domain.strict_json import read_json_as

FILE = "schedules.json"

# Milliseconds since 1970, on any clock of a node. The bound is far below the year 10000, because
# near that year, a time is not a valid date in some time zones.
Moment = Annotated[int, msgspec.Meta(ge=0, le=MAX_MS)]
_Content = dict[str, Moment | list[Moment]]  # a list if a clock has jumped back: see `Timetable`


class ProgressFile:
    """Reads and writes the progress of each timetable, by the timetable's name."""

    def __init__(self, state_path: Path) -> None:
        self.path = state_path / FILE
        self._content: _Content = {}

    def read(self) -> Mapping[str, Sequence[int]]:
        """Read the file. Raises OSError, Malformed, msgspec.ValidationError."""
        self._content = {}
        try:
            self._content = read_json_as(read_regular(self.path), _Content)
        except FileNotFoundError:
            return {}
        return {
            name: [moments] if isinstance(moments, int) else moments
            for name, moments in self._content.items()
        }

    def has(self, progress: Mapping[str, list[int]]) -> bool:
        """Whether this progress is already in the file."""
        return _content_of(progress) == self._content

    def save(self, progress: Mapping[str, list[int]]) -> None:
        """Replace the file. Raises OSError."""
        content = _content_of(progress)
        replace_file(self.path, msgspec.json.encode(content))
        self._content = content


def _content_of(progress: Mapping[str, list[int]]) -> _Content:
    return {name: moments if len(moments) > 1 else moments[0] for name, moments in progress.items()}
