"""The beginning of a large value in place of the value, for readers that show only that."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec.structs import replace

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.masking.omitted import Omission, Omitted

BEGIN_BYTES = 4 * 1024
_LONGEST_ESCAPE = 12  # bytes of two escapes that are one character


def with_beginning(fact: AnyFact, field: str, start: bytes, size: int) -> AnyFact:
    """A fact with the beginning of its value, as a text. ``field`` is that of the value.

    ``start`` has the first bytes of the value, which has ``size`` bytes. ``omitted`` of the fact
    says that the rest is missing.
    """
    changes: dict[str, Any] = {"omitted": Omitted(Omission.REST, size)}
    if field == "data":
        changes[field] = start[:BEGIN_BYTES]
    else:
        changes[field] = msgspec.Raw(msgspec.json.encode(_text(start[:BEGIN_BYTES])))
    return replace(fact, **changes)


def _text(start: bytes) -> str:
    """The beginning of a JSON text as text; that of a JSON string without its quotation mark."""
    if start[:1] == b'"':
        for shorter in range(_LONGEST_ESCAPE + 1):  # it may end within a character
            try:
                return msgspec.json.decode(start[: len(start) - shorter] + b'"', type=str)
            except msgspec.DecodeError:  # noqa: PERF203 - it ends at the first that is whole
                continue
    return start.decode("utf-8", "ignore")
