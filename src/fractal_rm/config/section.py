"""Reads one JSON object by its keys, with types and ranges. Errors become findings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fractal_rm.config import key_faults
from fractal_rm.config.json_source import JsonSource
from fractal_rm.config.json_text import JsonFault, Value, parse_json
from fractal_rm.config.key_faults import KeyFault
from fractal_rm.domain.findings import Level, Place, nearest

_KINDS = {dict: "an object", list: "a list", str: "a text", bool: "true or false",
          int: "a whole number", float: "a number", type(None): "null"}  # fmt: skip


class Section:
    """An object of a file. ``name`` is its path in the file, for findings."""

    def __init__(
        self, source: JsonSource, value: Value, name: str, *, broken: bool = False
    ) -> None:
        self._source = source
        self._place = value.place
        self._name = name
        self._broken = broken  # it has a finding already, so missing keys are not reported
        self._read: set[str] = set()
        self._bad: set[tuple[str, str]] = set()  # reported keys and texts
        self._unresolved: set[str] = set()  # keys, see `unresolved`
        self._keys = value.keys
        if isinstance(value.plain, dict):
            self._members = value.plain
        else:
            self._members: dict[str, Value] = {}
            self._broken = True
            source.add("C205", value.place, f"{name or 'the file'} must be an object")

    # --- values -------------------------------------------------------------------------------

    def text(self, key: str, default: str | None = None) -> str | None:
        """A text with its references replaced; the default for null and for a wrong value."""
        value = self._get(key, str)
        text = None if value is None else self._resolved(key, value)
        return default if text is None else text

    def _resolved(self, key: str, value: Value) -> str | None:
        """A text with its references replaced. None if one has an error, which is reported."""
        before = self._source.count
        text = self._source.resolve(str(value.plain), value.place)
        if self._source.count == before:
            return text
        self._unresolved.add(key)
        return None

    def texts(self, key: str, *, or_one: bool = False) -> list[str]:
        """A list of texts with their references replaced; empty if the key is absent.

        ``or_one``: a single text is allowed, too.
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
                self._unresolved.add(key)
                kind = _KINDS[type(item.plain)]
                self._source.add(
                    "C205",
                    item.place,
                    f"{self._path(key)} has {kind} in it, and must have only texts",
                )
        return texts

    def needed_text(self, key: str) -> str:
        """A required text that must not be empty."""
        text = self.text(key)
        if not text:
            self.missing(key)
        return text or ""

    def path(self, key: str) -> str | None:
        """A path, made absolute."""
        text = self.text(key)
        if text and "\0" in text:
            self.bad(key, f"{self._path(key)} cannot be a path: it has a NUL character")
        return self._source.path(text) if text else None

    def whole(self, key: str, default: int, at_least: int, at_most: int) -> int:
        """A whole number within a range."""
        return int(self._number(key, int, default, at_least, at_most))

    def seconds(self, key: str, default: float, at_most: float = 86_400) -> float:
        """A time in seconds, more than 0."""
        return float(self._number(key, float, default, 0.001, at_most))

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._get(key, bool)
        return default if value is None else bool(value.plain)

    def one_of(self, key: str, allowed: tuple[str, ...], default: str | None) -> str | None:
        """One of the allowed texts."""
        text = self.text(key)
        if text is None:
            return default
        if text not in allowed:
            self._report(key, key_faults.not_allowed(self._path(key), text, allowed))
            return default
        return text

    def identifier(self, key: str, default: str) -> str:
        """A whole number or a text, as text: 2 and "2" are the same id."""
        value = self._get(key, int, str)
        return default if value is None else str(value.plain)

    def section(self, key: str) -> Section | None:
        """An object, or None if it is absent."""
        value = self._get(key, dict)
        return None if value is None else Section(self._source, value, self._path(key))

    def section_or_flag(self, key: str) -> Section | bool:
        """An object, or true or false."""
        value = self._get(key, dict, bool)
        if value is None or isinstance(value.plain, bool):
            return value is not None and value.plain is True
        return Section(self._source, value, self._path(key))

    def has(self, key: str) -> bool:
        """Whether the key is present."""
        return key in self._members

    def keys(self) -> list[str]:
        """All keys, for objects whose keys are names."""
        return list(self._members)

    # --- findings -----------------------------------------------------------------------------

    def unresolved(self, key: str) -> bool:
        """Whether the value of a key was wrong when it was read, and is reported already.

        It has a wrong type, or a reference that cannot be resolved. Errors that follow from this
        need no findings.
        """
        return key in self._unresolved

    def missing(self, key: str) -> None:
        """Report a required key that is missing or empty, if it has no finding yet."""
        if not self._broken and not self.unresolved(key):
            fault = key_faults.missing(self._path(key))
            self._source.add(fault.code, self._place, fault.text, fault.help)

    def bad(self, key: str, text: str, hint: str | None = None, code: str = "C206") -> None:
        """Report a wrong value of a key, once, however often the key is read."""
        if (key, text) in self._bad:
            return
        self._bad.add((key, text))
        member = self._members.get(key)
        self._source.add(code, member.place if member else self._place, text, hint)

    def warn(self, key: str, code: str, text: str) -> None:
        """Report a warning about a key."""
        place = self._keys.get(key, self._place)
        self._source.add(code, place, text, level=Level.WARNING)

    def finish(self) -> None:
        """Report all keys that were not read. Call it last."""
        for key, place in self._keys.items():
            if key in self._read:
                continue
            near = nearest(key, self._read)
            # Files of the original may have keys of other programs. A misspelt key is an error,
            # so that a limit does not silently keep its default.
            level = Level.WARNING if near is None else Level.ERROR
            fault = key_faults.unknown(self._path(key), key, self._read)
            self._source.add(fault.code, place, fault.text, fault.help, level)

    def _report(self, key: str, fault: KeyFault) -> None:
        self.bad(key, fault.text, fault.help, fault.code)

    def _path(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key

    def _get(self, key: str, *kinds: type) -> Value | None:
        self._read.add(key)
        value = self._members.get(key)
        if value is None or value.plain is None:
            return None
        if type(value.plain) not in kinds and not (kinds == (float,) and type(value.plain) is int):
            wanted = [_KINDS[kind] for kind in kinds]
            quoted = isinstance(value.plain, str) and value.plain.strip().isdigit()
            hint = "write it without quotes" if quoted and str not in kinds else None
            self._report(key, key_faults.wrong_type(self._path(key), wanted, hint))
            self._unresolved.add(key)
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
            self._report(key, key_faults.out_of_range(self._path(key), at_least, at_most))
            return default
        return number


def read_section(source: JsonSource) -> Section:
    """The object of a file; an empty one, with a finding, if the file has none."""
    try:
        value = parse_json(source.text)
    except JsonFault as fault:
        source.add(fault.code, fault.place, str(fault))
        return Section(source, Value({}, Place()), "", broken=True)
    return Section(source, value, "")


def each(section: Section, read: Callable[[str, Section], None]) -> None:
    """Read every object of an object whose keys are names."""
    for name in section.keys():  # noqa: SIM118 - not a dict
        inner = section.section(name)
        if inner is not None:
            read(name, inner)
