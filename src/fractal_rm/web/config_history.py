"""The configurations that were applied, for pages: read again only when there is a new one."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from pathlib import Path

import msgspec

from fractal_rm.config.applied import Applied, NotKept, applied_numbers, read_applied
from fractal_rm.config.compile import FILES
from fractal_rm.config.model import Config
from fractal_rm.config.secrets import secrets_of
from fractal_rm.config.shown_text import MAX_SHOWN, shown_text
from fractal_rm.config.versions import (
    Past,
    changed_files,
    difference,
    past_configurations,
    texts_on_disk,
)

MAX_LINES = 2_000  # of the difference of one file


class FileDifference(msgspec.Struct, frozen=True):
    """How a file differs, as lines of a unified diff without its head; ``note`` says what else."""

    file: str
    lines: tuple[str, ...]
    note: str = ""

    @property
    def added(self) -> int:
        """The number of new lines."""
        return sum(line.startswith("+") for line in self.lines)

    @property
    def removed(self) -> int:
        """The number of lines that are not there any more."""
        return sum(line.startswith("-") for line in self.lines)


class ConfigHistory:
    """Reads the state folder. ``config`` returns the configuration in force.

    All methods read files: call them in a thread. They raise NotKept.
    """

    def __init__(self, config: Callable[[], Config]) -> None:
        self._config = config
        self._key: tuple[Path, tuple[int, ...]] | None = None
        self._past: list[Past] = []

    @property
    def state(self) -> Path:
        """The state folder."""
        return Path(self._config().state_path)

    @property
    def folder(self) -> Path:
        """The folder of the configuration."""
        return Path(self._config().folder)

    def past(self) -> list[Past]:
        """The configurations that are kept, the newest first."""
        key = self.state, tuple(applied_numbers(self.state))
        if key != self._key:
            self._past = past_configurations(self.state)
            self._key = key
        return self._past

    def in_force(self) -> Past | None:
        """The configuration in force; None if it is not kept."""
        digests = self._config().file_digests
        return next((each for each in self.past() if each.digests == digests), None)

    def one(self, number: int) -> Applied:
        """A configuration by its number."""
        return read_applied(self.state, number)

    def texts(self, name: str) -> dict[str, str]:
        """The texts of ``disk``, ``force``, or a number."""
        if name == "disk":
            return texts_on_disk(self.folder)
        if name == "force":
            past = self.in_force()
            if past is None:
                raise NotKept("the configuration in force is not in the history")
            return self.one(past.number).files
        return self.one(int(name)).files

    def differences(
        self, old: Mapping[str, str], new: Mapping[str, str]
    ) -> tuple[FileDifference, ...]:
        """How the files differ, with secrets masked."""
        secrets = secrets_of(self._config())
        return tuple(
            compare(file, old.get(file, ""), new.get(file, ""), secrets)
            for file in changed_files(old, new)
        )


def compare(file: str, old: str, new: str, secrets: set[str]) -> FileDifference:
    """How two texts of a file differ, with secrets masked."""
    if len(old) > MAX_SHOWN or len(new) > MAX_SHOWN:
        return FileDifference(file, (), "The texts are too long to compare here.")
    lines = difference(file, shown_text(file, old, secrets), shown_text(file, new, secrets), "old")
    if not lines:
        return FileDifference(file, (), "Only secrets differ, which are not shown.")
    if len(lines) == 1:  # only the ends of lines
        return FileDifference(file, (), "Only the ends of lines differ.")
    body = lines[2:]
    note = ""
    if len(body) > MAX_LINES:
        note = f"{len(body) - MAX_LINES:,} more lines are not shown."
    return FileDifference(file, tuple(body[:MAX_LINES]), note)


def digest_of_texts(texts: Mapping[str, str]) -> str:
    """Identifies the texts of all files: what a page has shown, and a form sends back."""
    content = hashlib.sha256()
    for file in FILES:
        content.update(texts.get(file, "").encode() + b"\0")
    return content.hexdigest()
