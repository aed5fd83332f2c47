"""Finds references of a step that are null because an object has no such field.

A field that is misspelt in a flow is not an error: JMESPath says that its value is null.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from fractal_rm.domain.expression import Item, Payload, Reference, Result
from fractal_rm.domain.findings import nearest
from fractal_rm.domain.flow import Call, Step
from fractal_rm.domain.needs import parts_of

MAX_SHOWN_FIELDS = 10
MAX_REFERENCES = 100  # of one step
MAX_READ_BYTES = 4 * 1024 * 1024  # of all values together; the references after that are not read
_MAX_COMPARED_FIELDS = 1_000  # with more fields, or a longer name, the comparison would be slow
_MAX_COMPARED_CHARACTERS = 100

_NAME = r'[A-Za-z_][A-Za-z0-9_]*|"(?:[^"\\]|\\.)*"'
_PART = re.compile(rf"(?P<dot>\.)?(?:(?P<name>{_NAME})|\[(?P<index>-?\d{{1,9}})\])")

Key = tuple[str, "str | int"]  # a part of a path: its text, and the name or the index


class StepValues(msgspec.Struct, frozen=True):
    """The values that a step could use, as JSON text.

    ``results``: by the numbers of steps. The text of a result is a JSON string that contains JSON,
    as in `domain.facts.Finished`. ``element``: which element of its list the step used as item,
    from 1.
    """

    payload: msgspec.Raw
    results: Mapping[int, msgspec.Raw] = {}
    element: int = 1


class MissingField(msgspec.Struct, frozen=True):
    """The reference ``reference`` is null, because ``holder`` has no field ``field``.

    ``holder`` is a reference too; its path is empty if the whole payload, result or item has no
    such field. ``fields`` are the first fields that it has, and ``total`` is their number.
    ``similar`` is the field that is probably meant, or None.
    """

    reference: Reference
    holder: Reference
    field: str
    fields: tuple[str, ...]
    total: int
    similar: str | None


def missing_fields(step: Step, part: object, values: StepValues) -> list[MissingField]:
    """The references in ``part`` of a step that are null because a field is missing.

    Those with a similar field come first. Only paths of names and indexes are examined, such as
    ``shot.parts[0].id``. Values that cannot be read are left out.
    """
    reader = _Reader(step, values)
    references: dict[Reference, None] = {}
    for each in parts_of(part):
        if isinstance(each, (Payload, Result, Item)) and len(references) < MAX_REFERENCES:
            references[each] = None
    found = [missing for each in references if (missing := reader.missing(each)) is not None]
    return sorted(found, key=lambda missing: missing.similar is None)


def keys_of(path: str) -> list[Key] | None:
    """The parts of a path that has only names and indexes; None for any other path."""
    keys: list[Key] = []
    at = 0
    while at < len(path):
        match = _PART.match(path, at)
        # Names have a dot between them. An index has no dot.
        if match is None or bool(match["dot"]) != (at > 0 and match["name"] is not None):
            return None
        try:
            name = match["name"]
            key = int(match["index"]) if name is None else _unquoted(name)
        except msgspec.DecodeError:
            return None
        keys.append((match[0], key))
        at = match.end()
    return keys


def _unquoted(name: str) -> str:
    return msgspec.json.decode(name, type=str) if name.startswith('"') else name


class _Reader:
    """Reads fields of values, one level at a time, and each level once."""

    def __init__(self, step: Step, values: StepValues) -> None:
        self._step = step
        self._values = values
        self._left = MAX_READ_BYTES
        self._contents: dict[int, msgspec.Raw | None] = {}
        self._read: dict[Reference, dict[str, msgspec.Raw] | list[msgspec.Raw] | None] = {}

    def missing(self, reference: Reference) -> MissingField | None:
        found = self._follow(reference, keys_of(reference.path) or [])
        return found if isinstance(found, MissingField) else None

    def _follow(self, reference: Reference, keys: list[Key]) -> msgspec.Raw | MissingField | None:
        """The value to which the keys lead, or the field that is missing; otherwise None."""
        value = self._whole(reference) if keys else None
        holder = msgspec.structs.replace(reference, path="")
        for text, key in keys:
            inner = None if value is None else self._inner(holder, value)
            if isinstance(inner, dict) and isinstance(key, str):
                if key not in inner:
                    return _missing(reference, holder, key, inner)
                value = inner[key]
            elif isinstance(inner, list) and isinstance(key, int):
                value = inner[key] if -len(inner) <= key < len(inner) else None
            else:
                return None
            holder = msgspec.structs.replace(holder, path=holder.path + text)
        return value

    def _whole(self, reference: Reference) -> msgspec.Raw | None:
        """The payload, result or item to which the path of a reference applies."""
        if isinstance(reference, Payload):
            return self._values.payload
        if isinstance(reference, Item):
            return self._element()
        number = reference.number
        if number not in self._contents:
            self._contents[number] = self._content(self._values.results.get(number))
        return self._contents[number]

    def _element(self) -> msgspec.Raw | None:
        options = self._step.options if isinstance(self._step, Call) else msgspec.UNSET
        each = None if options is msgspec.UNSET else options.foreach
        if each is None or isinstance(each.list_reference, Item):
            return None
        keys = keys_of(each.list_reference.path)
        if keys is None:
            return None
        element = self._values.element
        found = self._follow(each.list_reference, [*keys, (f"[{element - 1}]", element - 1)])
        return found if isinstance(found, msgspec.Raw) else None

    def _content(self, result: msgspec.Raw | None) -> msgspec.Raw | None:
        """The JSON in a result."""
        if result is None or bytes(memoryview(result)[:1]) != b'"':
            return result
        text = self._decode(result, str)
        return None if text is None else msgspec.Raw(text.encode())

    def _inner(
        self, holder: Reference, value: msgspec.Raw
    ) -> dict[str, msgspec.Raw] | list[msgspec.Raw] | None:
        """The fields or the elements of a value; None if it has none."""
        if holder not in self._read:
            begin = bytes(memoryview(value)[:64]).lstrip()[:1]
            kinds: dict[bytes, Any] = {b"{": dict[str, msgspec.Raw], b"[": list[msgspec.Raw]}
            kind = kinds.get(begin)
            self._read[holder] = None if kind is None else self._decode(value, kind)
        return self._read[holder]

    def _decode(self, value: msgspec.Raw, kind: Any) -> Any:
        self._left -= len(value)
        if self._left < 0:
            return None
        try:
            return msgspec.json.decode(value, type=kind)
        except (msgspec.DecodeError, RecursionError):
            return None


def _missing(
    reference: Reference, holder: Reference, field: str, fields: Mapping[str, object]
) -> MissingField:
    similar = None
    if len(fields) <= _MAX_COMPARED_FIELDS and len(field) <= _MAX_COMPARED_CHARACTERS:
        similar = nearest(field, list(_comparable(fields)))
    return MissingField(
        reference, holder, field, tuple(fields)[:MAX_SHOWN_FIELDS], len(fields), similar
    )


def _comparable(fields: Mapping[str, object]) -> Iterator[str]:
    return (name for name in fields if len(name) <= _MAX_COMPARED_CHARACTERS)
