"""Reads the keys of one object of a file. Wrong types and unknown keys become findings.

There is a subclass for each format: `config.section` reads JSON, and `cases.table` reads TOML.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, ClassVar, TypeVar

from fractal_rm.config.mask import mask
from fractal_rm.domain.findings import Finding, Level, Place, did_you_mean, nearest

MAX_MASKED = 1024 * 1024  # characters
D = TypeVar("D")


class CheckedFile:
    """A file that is being read. ``findings`` collects its errors and warnings."""

    def __init__(self, file: str, text: str, findings: list[Finding]) -> None:
        self.file = file
        self.text = text
        self.findings = findings

    @cached_property
    def _lines(self) -> list[str]:
        """The lines of the file, with secrets masked.

        The list is empty for a file above `MAX_MASKED`, because masking it would take too long.
        """
        return mask(self.text).split("\n") if len(self.text) <= MAX_MASKED else []

    def add(
        self,
        code: str,
        place: Place,
        text: str,
        hint: str | None = None,
        level: Level = Level.ERROR,
    ) -> None:
        """Add a finding. It shows the line at ``place``, with secrets masked."""
        has_line = place.line and self._lines
        line = self._lines[place.line - 1].rstrip("\r") if has_line else ""
        self.findings.append(Finding(self.file, place, code, text, hint, level, line))


class KeyReader(ABC):
    """Reads the keys of one object, and adds a finding for each key that cannot be used.

    A method that reads a key returns the default if the key is absent or cannot be used.
    """

    kinds: ClassVar[Mapping[type, str]]  # how findings name the type of a value
    missing_hint: ClassVar[str | None] = None  # the hint for a missing key; %s stands for the key
    rejects_unknown_keys: ClassVar[bool] = True

    def __init__(self, file: CheckedFile, members: Collection[str]) -> None:
        self._file = file
        self._members = members
        self._read_keys: set[str] = set()
        self._reported: set[tuple[str, str]] = set()  # the key and the text of each finding
        self._unusable: set[str] = set()  # the keys for which `is_unusable` is true

    # --- the format -------------------------------------------------------------------------------

    @abstractmethod
    def _plain(self, key: str) -> Any:
        """Return the value of a key; None if the key is absent."""

    @abstractmethod
    def _place(self, key: str | None) -> Place:
        """Return the place of the value of a key.

        Returns the place of the whole object if ``key`` is None or absent.
        """

    def _key_place(self, key: str) -> Place:
        """Return the place of a key. In JSON, it differs from the place of the key's value."""
        return self._place(key)

    def _label(self, key: str) -> str:
        """Return the name of a key in findings, such as ``mqtt.port``."""
        return key

    def _kind_hint(self, key: str, value: object, kinds: tuple[type, ...]) -> str | None:  # noqa: ARG002
        """Return a hint for a value of the wrong type, or None."""
        return None

    # --- values -----------------------------------------------------------------------------------

    def has(self, key: str) -> bool:
        """Return whether a key is present, and count the key as read."""
        self._read_keys.add(key)
        return key in self._members

    def keys(self) -> list[str]:
        """Return all keys. Use this for objects whose keys are names, such as component names."""
        return list(self._members)

    def text(self, key: str) -> str | None:
        """Read a text."""
        return self._get(key, str)

    def required_text(self, key: str) -> str:
        """Read a required text. If it is absent or empty, adds a finding and returns ""."""
        text = self.text(key)
        if not text:
            self.missing(key)
        return text or ""

    def integer(self, key: str, default: int, at_least: int, at_most: int) -> int:
        """Read a whole number within a range."""
        return self._in_range(key, self._get(key, int), default, at_least, at_most)

    def flag(self, key: str, default: D) -> bool | D:
        """Read true or false."""
        value = self._get(key, bool)
        return default if value is None else value

    def identifier(self, key: str, default: D) -> str | D:
        """Read a whole number or a text, as text: 2 and "2" are the same id."""
        value = self._get(key, int, str)
        return default if value is None else str(value)

    def one_of(self, key: str, allowed: Collection[str], default: D) -> str | D:
        """Read one of the allowed texts."""
        text = self.text(key)
        if text is None:
            return default
        if text not in allowed:
            self.bad(key, f'{self._label(key)} is "{text}"', _known_words_hint(text, allowed))
            return default
        return text

    # --- findings ---------------------------------------------------------------------------------

    def is_unusable(self, key: str) -> bool:
        """Return whether the value of a key could not be read, and so already has a finding."""
        return key in self._unusable

    def missing(self, key: str) -> None:
        """Add a finding for a required key that is absent or empty."""
        if not self.is_unusable(key):
            hint = self.missing_hint and self.missing_hint % key
            self._file.add("C204", self._place(None), f"{self._label(key)} is missing", hint)

    def bad(self, key: str, text: str, hint: str | None = None, code: str = "C206") -> None:
        """Add a finding for a key whose value cannot be used.

        A second call with the same key and text adds nothing.
        """
        if (key, text) not in self._reported:
            self._reported.add((key, text))
            self._file.add(code, self._place(key), text, hint)

    def warn(self, key: str, code: str, text: str) -> None:
        """Add a warning about a key. A warning does not make the file invalid."""
        self._file.add(code, self._key_place(key), text, level=Level.WARNING)

    def report(self, key: str, code: str, text: str, level: Level) -> None:
        """Add a finding of any level about the value of a key."""
        self._file.add(code, self._place(key), text, level=level)

    def finish(self) -> None:
        """Add a finding for each unknown key: for each key that no method was asked to read.

        Call this at the end.
        """
        known_keys = sorted(self._read_keys)
        for key in self._members:
            if key in self._read_keys:
                continue
            text = f"{self._label(key)} is not known"
            if self.rejects_unknown_keys:
                hint, level = _known_words_hint(key, known_keys), Level.ERROR
            else:
                # The file may have keys for other programs, so an unknown key is a warning. But a
                # misspelt key is an error: otherwise nobody would notice that the default is used.
                hint = did_you_mean(key, known_keys)
                level = Level.WARNING if nearest(key, known_keys) is None else Level.ERROR
            self._file.add("C203", self._key_place(key), text, hint, level)

    def _get(self, key: str, *kinds: type) -> Any:
        """Return the value of a key; None if the key is absent.

        If the type of the value is not one of ``kinds``, adds a finding and returns None.
        """
        self._read_keys.add(key)
        value = self._plain(key)
        if value is None or type(value) in kinds or (type(value) is int and kinds == (float,)):
            return value
        kinds_text = " or ".join(self.kinds[kind] for kind in kinds)
        text = f"{self._label(key)} must be {kinds_text}, not {self._kind_of(value)}"
        self.bad(key, text, self._kind_hint(key, value, kinds), "C205")
        self._unusable.add(key)
        return None

    def _kind_of(self, value: object) -> str:
        return self.kinds.get(type(value), "a value of another type")

    def _in_range(
        self, key: str, number: float | None, default: Any, at_least: float, at_most: float
    ) -> Any:
        if number is None:
            return default
        if not at_least <= number <= at_most:
            self.bad(key, f"{self._label(key)} must be from {at_least} to {at_most}")
            return default
        return number


def _known_words_hint(word: str, known_words: Collection[str]) -> str:
    """Return a hint with the most similar known word, or with all known words."""
    return did_you_mean(word, known_words) or "there is " + ", ".join(known_words)
