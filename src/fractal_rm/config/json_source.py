"""The text of one JSON file of the configuration, and what it refers to."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

from fractal_rm.config.json_text import HALF_A_PAIR
from fractal_rm.config.mask import mask
from fractal_rm.config.regular_file import SECRET_BYTES, code_of, read_regular
from fractal_rm.domain.findings import Finding, Level, Place

MOST_MASKED = 1024 * 1024  # characters
_REFERENCE = re.compile(r"\$\{([^}]*)\}")


class Shared:
    """What all files of one configuration share: findings, and the content of references.

    ``referenced`` has the content of each file that is referred to; None: it cannot be read. Each
    file is read once, so that all references to it have the same content.
    """

    def __init__(self, environ: Mapping[str, str], base: Path) -> None:
        self.environ = environ
        self.base = base
        self.findings: list[Finding] = []
        self.referenced: dict[Path, str | None] = {}

    @classmethod
    def empty(cls) -> Shared:
        """Without environment and references, for a file that is missing."""
        return cls({}, Path())


class JsonSource:
    """One JSON file, with its lines for findings. ``shared`` belongs to all files."""

    def __init__(self, file: str, text: str, shared: Shared) -> None:
        self.file = file
        self._text = text
        self._shared = shared

    @cached_property
    def _lines(self) -> list[str]:
        """The masked lines for findings; none for a very large file, because masking is slow."""
        return mask(self._text).split("\n") if len(self._text) <= MOST_MASKED else []

    @property
    def text(self) -> str:
        """The whole text of the file."""
        return self._text

    @property
    def count(self) -> int:
        """The number of findings so far, in all files."""
        return len(self._shared.findings)

    def add(
        self,
        code: str,
        place: Place,
        text: str,
        hint: str | None = None,
        level: Level = Level.ERROR,
    ) -> None:
        """Add a finding."""
        shown = place.line and self._lines
        line = self._lines[place.line - 1].rstrip("\r") if shown else ""
        self._shared.findings.append(Finding(self.file, place, code, text, hint, level, line))

    def resolve(self, text: str, place: Place) -> str:
        """Replace ``${env:NAME}`` and ``${file:path}`` by their contents."""
        return _REFERENCE.sub(lambda match: self._referred(match[1], place), text)

    def path(self, text: str) -> str:
        """A path as text. A relative path starts at the folder above config_files."""
        return str(self._shared.base / text)

    def _referred(self, reference: str, place: Place) -> str:
        kind, _, name = reference.partition(":")
        if kind == "env":
            return self._variable(name, place)
        if kind != "file":
            self.add("C207", place, f"${{{reference:.60}}} is not a reference",
                     "write ${env:NAME} or ${file:path}")  # fmt: skip
            return ""
        path = self._shared.base / name
        content = self._shared.referenced.get(path)
        if content is None:  # a file that cannot be read is reported at each place
            content = self._shared.referenced[path] = self._content(path, place)
        return (content or "").rstrip("\r\n")

    def _variable(self, name: str, place: Place) -> str:
        value = self._shared.environ.get(name)
        if value is None:
            self.add("C207", place, f"the environment has no variable {name}")
        elif HALF_A_PAIR.search(value):
            self.add("C207", place, f"the variable {name} is not UTF-8")
        else:
            return value
        return ""

    def _content(self, path: Path, place: Place) -> str | None:
        code = "C207"
        try:
            return read_regular(path, SECRET_BYTES).decode("utf-8-sig")
        except OSError as error:
            reason, code = error.strerror or str(error), code_of(error, "C207")
        except UnicodeDecodeError:
            reason = "it is not UTF-8"
        except ValueError as error:  # a NUL in its name
            reason = str(error)
        self.add(code, place, f"{path} cannot be read: {reason}")
        return None
