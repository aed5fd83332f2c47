"""Reading one JSON object: each key once, with its type and range; everything else is a finding."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from fractal_rm.config.json_text import HALF_A_PAIR, JsonFault, Value, parse_json
from fractal_rm.config.mask import mask
from fractal_rm.config.regular_file import SECRET_BYTES, code_of, read_regular
from fractal_rm.domain.findings import Finding, Level, Place, did_you_mean, nearest

MOST_MASKED = 1024 * 1024  # characters
_REFERENCE = re.compile(r"\$\{([^}]*)\}")
_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false",
          int: "a whole number", float: "a number", type(None): "null"}  # fmt: skip


class Surroundings:
    """What all files of one configuration share: findings, and where references lead.

    ``referenced`` has what each file that is referred to said; None: it cannot be read. What it
    said is read once: all that is made of a configuration is made of the same content.
    """

    def __init__(self, environ: Mapping[str, str], base: Path) -> None:
        self.environ = environ
        self.base = base
        self.findings: list[Finding] = []
        self.referenced: dict[Path, str | None] = {}

    @classmethod
    def none(cls) -> Surroundings:
        """For a file that is not there: nothing is found in it."""
        return cls({}, Path())


class Source:
    """One JSON file: its lines for findings, and what is around it."""

    def __init__(self, file: str, text: str, around: Surroundings) -> None:
        self.file = file
        self._text = text
        self._around = around

    @cached_property
    def _lines(self) -> list[str]:
        """What findings show of the file: of a very large one nothing, as to mask it takes long."""
        return mask(self._text).split("\n") if len(self._text) <= MOST_MASKED else []

    def section(self) -> Section:
        """The file's object; where there is none, an empty one and a finding."""
        try:
            value = parse_json(self._text)
        except JsonFault as fault:
            self.add(fault.code, fault.place, str(fault))
            return Section(self, Value({}, Place()), "", broken=True)
        return Section(self, value, "")

    @property
    def found(self) -> int:
        """How many findings there are so far, in all files."""
        return len(self._around.findings)

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
        self._around.findings.append(Finding(self.file, place, code, text, hint, level, line))

    def resolve(self, text: str, place: Place) -> str:
        """Put in what ``${env:NAME}`` and ``${file:path}`` stand for."""
        return _REFERENCE.sub(lambda found: self._referred(found[1], place), text)

    def path(self, text: str) -> str:
        """A path as text; a relative one counts from the folder that holds config_files."""
        return str(self._around.base / text)

    def _referred(self, reference: str, place: Place) -> str:
        kind, _, name = reference.partition(":")
        if kind == "env":
            return self._variable(name, place)
        if kind != "file":
            self.add("C207", place, f"${{{reference:.60}}} is no reference",
                     "write ${env:NAME} or ${file:path}")  # fmt: skip
            return ""
        path = self._around.base / name
        content = self._around.referenced.get(path)
        if content is None:  # where it cannot be read, that is said at each place
            content = self._around.referenced[path] = self._content(path, place)
        return (content or "").rstrip("\r\n")

    def _variable(self, name: str, place: Place) -> str:
        value = self._around.environ.get(name)
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


class Section:
    """An object of a file. ``name`` is its path in the file, for findings."""

    def __init__(self, source: Source, value: Value, name: str, *, broken: bool = False) -> None:
        self._source = source
        self._place = value.place
        self._name = name
        self._broken = broken  # said already: what is missing in it needs no findings
        self._asked: set[str] = set()
        self._bad: set[tuple[str, str]] = set()  # keys, and what was said of them
        self._unknown: set[str] = set()  # keys, see `unknown`
        self._keys = value.keys
        if isinstance(value.plain, dict):
            self._members = value.plain
        else:
            self._members: dict[str, Value] = {}
            self._broken = True
            source.add("C205", value.place, f"{name or 'the file'} must be an object")

    # --- values -------------------------------------------------------------------------------

    def text(self, key: str, default: str | None = None) -> str | None:
        """A text with its references put in; null is the default, and so is what cannot be had."""
        value = self._get(key, str)
        text = None if value is None else self._resolved(key, value)
        return default if text is None else text

    def _resolved(self, key: str, value: Value) -> str | None:
        """A text with its references put in; None where one fails, which is said here."""
        before = self._source.found
        text = self._source.resolve(str(value.plain), value.place)
        if self._source.found == before:
            return text
        self._unknown.add(key)
        return None

    def texts(self, key: str, *, or_one: bool = False) -> list[str]:
        """A list of texts with their references put in; none where the key is absent.

        ``or_one``: a text may stand in its place.
        """
        value = self._get(key, list, str) if or_one else self._get(key, list)
        if value is None:
            return []
        if or_one and value.plain == []:
            self.bad(key, f"{self._path(key)} is an empty list")
        texts: list[str] = []
        for item in value.plain if isinstance(value.plain, list) else (value,):
            if isinstance(item.plain, str):
                text = self._resolved(key, item)
                texts += [] if text is None else [text]
            else:
                self._unknown.add(key)
                kind = _KINDS[type(item.plain)]
                self._source.add("C205", item.place, f"{self._path(key)} holds {kind}: not a text")
        return texts

    def needed_text(self, key: str) -> str:
        """A text that must be there and must not be empty."""
        text = self.text(key)
        if not text:
            self.missing(key)
        return text or ""

    def path(self, key: str) -> str | None:
        """A path, made absolute."""
        text = self.text(key)
        if text and "\0" in text:
            self.bad(key, f"{self._path(key)} cannot be a path: it holds NUL")
        return self._source.path(text) if text else None

    def whole(self, key: str, default: int, at_least: int, at_most: int) -> int:
        """A whole number within a range."""
        return int(self._number(key, int, default, at_least, at_most))

    def seconds(self, key: str, default: float, at_most: float = 86_400) -> float:
        """A time in seconds, more than nothing."""
        return float(self._number(key, float, default, 0.001, at_most))

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, bool)
        return default if value is None else bool(value.plain)

    def one_of(self, key: str, allowed: tuple[str, ...], default: str | None) -> str | None:
        """A text out of a few."""
        text = self.text(key)
        if text is None:
            return default
        if text not in allowed:
            self.bad(key, f'{self._path(key)} is "{text}"', did_you_mean(text, allowed))
            return default
        return text

    def identifier(self, key: str, default: str) -> str:
        """A whole number or a text, as text: 2 and "2" are the same id."""
        value = self._get(key, int, str)
        return default if value is None else str(value.plain)

    def section(self, key: str) -> Section | None:
        """An object, or None where it is absent."""
        value = self._get(key, dict)
        return None if value is None else Section(self._source, value, self._path(key))

    def section_or_flag(self, key: str) -> Section | bool:
        """An object, or true or false."""
        value = self._get(key, dict, bool)
        if value is None or isinstance(value.plain, bool):
            return value is not None and value.plain is True
        return Section(self._source, value, self._path(key))

    def has(self, key: str) -> bool:
        """Whether the key is there."""
        return key in self._members

    def keys(self) -> list[str]:
        """All keys, for objects whose keys are names."""
        return list(self._members)

    # --- findings -----------------------------------------------------------------------------

    def unknown(self, key: str) -> bool:
        """Whether what a key stands for could not be had, once it was read: that is said already.

        It has a reference that fails, or a wrong type. What follows from that says nothing new.
        """
        return key in self._unknown

    def missing(self, key: str) -> None:
        """A key that must be there is not, or is empty; nothing where it is said what is wrong."""
        if not self._broken and not self.unknown(key):
            self._source.add("C204", self._place, f"{self._path(key)} is missing")

    def bad(self, key: str, text: str, hint: str | None = None, code: str = "C206") -> None:
        """The value of a key cannot be used. It is said once, however often the key is read."""
        if (key, text) in self._bad:
            return
        self._bad.add((key, text))
        member = self._members.get(key)
        self._source.add(code, member.place if member else self._place, text, hint)

    def warn(self, key: str, code: str, text: str) -> None:
        """Say something of a key that does not keep the file from being taken."""
        place = self._keys.get(key, self._place)
        self._source.add(code, place, text, level=Level.WARNING)

    def finish(self) -> None:
        """Call it last: whatever nobody has asked for is not known."""
        for key, place in self._keys.items():
            if key in self._asked:
                continue
            near = nearest(key, self._asked)
            # Files of the original may hold keys of other programs; a slip of the pen may not
            # silently leave a limit at its default.
            level = Level.WARNING if near is None else Level.ERROR
            hint = did_you_mean(key, self._asked)
            self._source.add("C203", place, f"{self._path(key)} is not known", hint, level)

    def _path(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def _get(self, key: str, *kinds: type) -> Value | None:
        self._asked.add(key)
        value = self._members.get(key)
        if value is None or value.plain is None:
            return None
        if type(value.plain) not in kinds and not (kinds == (float,) and type(value.plain) is int):
            wanted = " or ".join(_KINDS[kind] for kind in kinds)
            quoted = isinstance(value.plain, str) and value.plain.strip().isdigit()
            hint = "write it without quotes" if quoted and str not in kinds else None
            self.bad(key, f"{self._path(key)} must be {wanted}", hint, code="C205")
            self._unknown.add(key)
            return None
        return value

    def _number(
        self, key: str, kind: type, default: float, at_least: float, at_most: float
    ) -> float:
        value = self._get(key, kind)
        if value is None:
            return default
        number: Any = value.plain
        if not at_least <= number <= at_most:
            self.bad(key, f"{self._path(key)} must be from {at_least} to {at_most}")
            return default
        return number


def each(section: Section, read: Callable[[str, Section], None]) -> None:
    """Read every object of an object whose keys are names."""
    for name in section.keys():  # noqa: SIM118 - not a dict
        inner = section.section(name)
        if inner is not None:
            read(name, inner)
