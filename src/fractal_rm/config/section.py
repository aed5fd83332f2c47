"""Reads one JSON object of a configuration file; see `config.key_reader`."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

from fractal_rm.config.json_text import LONE_SURROGATE, JsonFault, Value, parse_json
from fractal_rm.config.key_reader import CheckedFile, KeyReader
from fractal_rm.config.regular_file import SECRET_BYTES, finding_code, read_regular
from fractal_rm.domain.findings import Finding, Place

_REFERENCE = re.compile(r"\$\{([^}]*)\}")


class FileContext:
    """The data that the files of one configuration share while they are read.

    ``findings`` collects the findings of all files. ``referenced`` has, for each path in a
    ``${file:path}``, the content of that file, or None if the file cannot be read. Such a file is
    read once, so that all references to it get the same content. Relative paths begin at the folder
    ``base``. ``now_ms`` is the time with which the dates of certificates are compared. If it is
    None, certificates are not checked.
    """

    def __init__(self, environ: Mapping[str, str], base: Path, now_ms: int | None = None) -> None:
        self.environ = environ
        self.base = base
        self.now_ms = now_ms
        self.findings: list[Finding] = []
        self.referenced: dict[Path, str | None] = {}

    @classmethod
    def without_findings(cls) -> FileContext:
        """Return a context whose findings are ignored, for a file that could not be read."""
        return cls({}, Path())


class JsonFile(CheckedFile):
    """One JSON file of a configuration."""

    def __init__(self, file: str, text: str, context: FileContext) -> None:
        super().__init__(file, text, context.findings)
        self._context = context

    def section(self) -> Section:
        """Return the JSON object that the file contains.

        If the text is not a JSON object, adds a finding and returns an empty object.
        """
        try:
            value = parse_json(self.text)
        except JsonFault as fault:
            self.add(fault.code, fault.place, str(fault))
            return Section(self, Value({}, Place()), "", broken=True)
        return Section(self, value, "")

    @property
    def now_ms(self) -> int | None:
        """The time with which dates are compared; see `FileContext`."""
        return self._context.now_ms

    def resolve(self, text: str, place: Place) -> str:
        """Replace each ``${env:NAME}`` and ``${file:path}`` by the content that it refers to."""
        return _REFERENCE.sub(lambda match: self._referred(match[1], place), text)

    def path(self, text: str) -> str:
        """Return an absolute path. A relative path begins at the parent of config_files."""
        return str(self._context.base / text)

    def _referred(self, reference: str, place: Place) -> str:
        kind, _, name = reference.partition(":")
        if kind == "env":
            return self._variable(name, place)
        if kind != "file":
            self.add("C207", place, f"${{{reference:.60}}} is not a reference",
                     "write ${env:NAME} or ${file:path}")  # fmt: skip
            return ""
        path = self._context.base / name
        content = self._context.referenced.get(path)
        if content is None:  # not read yet, or unreadable, so that each reference gets a finding
            content = self._context.referenced[path] = self._content(path, place)
        return (content or "").rstrip("\r\n")

    def _variable(self, name: str, place: Place) -> str:
        value = self._context.environ.get(name)
        if value is None:
            self.add("C207", place, f"the environment has no variable {name}")
        elif LONE_SURROGATE.search(value):
            self.add("C207", place, f"the variable {name} is not UTF-8")
        else:
            return value
        return ""

    def _content(self, path: Path, place: Place) -> str | None:
        code = "C207"
        try:
            return read_regular(path, SECRET_BYTES).decode("utf-8-sig")
        except OSError as error:
            reason, code = error.strerror or str(error), finding_code(error, "C207")
        except UnicodeDecodeError:
            reason = "it is not UTF-8"
        except ValueError as error:  # the path contains a NUL character
            reason = str(error)
        self.add(code, place, f"{path} cannot be read: {reason}")
        return None


class Section(KeyReader):
    """An object in a JSON file. ``name`` is the path to the object, such as ``mqtt.tls``."""

    kinds: ClassVar[Mapping[type, str]] = {
        dict: "an object", list: "a list", str: "a text", bool: "true or false",
        int: "a whole number", float: "a number", type(None): "null",
    }  # fmt: skip
    rejects_unknown_keys: ClassVar[bool] = False

    def __init__(self, file: JsonFile, value: Value, name: str, *, broken: bool = False) -> None:
        members = value.plain if isinstance(value.plain, dict) else {}
        super().__init__(file, members)
        self._json = file
        self._values: Mapping[str, Value] = members
        self._object = value
        self._name = name
        self._broken = broken  # the object itself has a finding, so missing keys get no finding
        if not isinstance(value.plain, dict):
            self._broken = True
            file.add("C205", value.place, f"{name or 'the file'} must be an object")

    # --- the format -------------------------------------------------------------------------------

    def _plain(self, key: str) -> Any:
        value = self._values.get(key)
        return None if value is None else value.plain

    def _place(self, key: str | None) -> Place:
        value = None if key is None else self._values.get(key)
        return (value or self._object).place

    def _key_place(self, key: str) -> Place:
        return self._object.keys.get(key, self._object.place)

    def _label(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def _kind_hint(self, key: str, value: object, kinds: tuple[type, ...]) -> str | None:  # noqa: ARG002
        quoted = isinstance(value, str) and value.strip().isdigit()
        return "write it without quotes" if quoted and str not in kinds else None

    # --- values -----------------------------------------------------------------------------------

    def text(self, key: str, default: str | None = None) -> str | None:
        """Read a text, and replace the references in it."""
        value = self._get(key, str)
        text = None if value is None else self._resolved(key, self._values[key])
        return default if text is None else text

    def has_reference(self, key: str) -> bool:
        """Whether the text of a key contains a reference."""
        plain = self._plain(key)
        return isinstance(plain, str) and _REFERENCE.search(plain) is not None

    def _resolved(self, key: str, value: Value) -> str | None:
        """Return a text with its references replaced.

        If a reference cannot be resolved, adds a finding and returns None.
        """
        findings_before = len(self._json.findings)
        text = self._json.resolve(str(value.plain), value.place)
        if len(self._json.findings) == findings_before:
            return text
        self._unusable.add(key)
        return None

    def texts(self, key: str, *, allow_single: bool = False) -> list[str]:
        """Read a list of texts, and replace the references in them.

        Returns [] if the key is absent. With ``allow_single``, the value may also be one text
        without a list.
        """
        if (self._get(key, list, str) if allow_single else self._get(key, list)) is None:
            return []
        value = self._values[key]
        if allow_single and value.plain == []:
            self.bad(key, f"{self._label(key)} is an empty list")
        items = value.plain if isinstance(value.plain, list) else [value]
        texts: list[str] = []
        for item in items:
            if isinstance(item.plain, str):
                text = self._resolved(key, item)
                texts += [] if text is None else [text]
            else:
                self._unusable.add(key)
                kind = self._kind_of(item.plain)
                self._json.add(
                    "C205",
                    item.place,
                    f"{self._label(key)} contains {kind}, but must contain only texts",
                )
        return texts

    def path(self, key: str) -> str | None:
        """Read a path, and return it as absolute path. None if it is absent or unusable."""
        text = self.text(key)
        if text and "\0" in text:
            self.bad(key, f"{self._label(key)} is not a path: the text has a NUL character")
        return self._json.path(text) if text else None

    def seconds(self, key: str, default: float, at_most: float = 86_400) -> float:
        """Read a time in seconds: at least 0.001 and at most ``at_most``."""
        return float(self._in_range(key, self._get(key, float), default, 0.001, at_most))

    def fraction(self, key: str, default: float, at_least: float) -> float:
        """Read a number from ``at_least`` to 1."""
        return float(self._in_range(key, self._get(key, float), default, at_least, 1))

    def section(self, key: str) -> Section | None:
        """Read an object. Returns None if the key is absent."""
        return None if self._get(key, dict) is None else self._inner(key)

    def section_or_flag(self, key: str) -> Section | bool:
        """Read an object or a flag. Returns False if the key is absent."""
        plain = self._get(key, dict, bool)
        return plain is True if plain is None or isinstance(plain, bool) else self._inner(key)

    def _inner(self, key: str) -> Section:
        return Section(self._json, self._values[key], self._label(key))

    @property
    def now_ms(self) -> int | None:
        """The time with which dates are compared; see `FileContext`."""
        return self._json.now_ms

    # --- findings ---------------------------------------------------------------------------------

    def missing(self, key: str) -> None:
        """Add a finding for a required key that is absent or empty.

        If the object itself has a finding, adds nothing.
        """
        if not self._broken:
            super().missing(key)


def read_each(section: Section, read: Callable[[str, Section], None]) -> None:
    """For each key of ``section``, call ``read`` with the key and its object.

    Use this for sections whose keys are names, such as names of components.
    """
    for name in section.keys():  # noqa: SIM118 - not a dict
        inner = section.section(name)
        if inner is not None:
            read(name, inner)
