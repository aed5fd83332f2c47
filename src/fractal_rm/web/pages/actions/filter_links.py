"""Conditions on runs in the addresses of pages, and in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import cast
from urllib.parse import urlencode

import msgspec

from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.engine.ports import FailureGroup
from fractal_rm.web.pages.frame.text_filters import Zone

MIN_TEXT = 4  # characters of a shape by which its runs are found
MAX_TEXT = 200


def query_of(conditions: Mapping[str, object]) -> str:
    """The query of a page. Values that are None are left out."""
    return urlencode({
        name: _text(value) for name, value in conditions.items() if value is not None
    })  # fmt: skip


def query_with(query: msgspec.Struct, **changes: object) -> str:
    """The query of a page with other values."""
    return query_of({**msgspec.structs.asdict(query), **changes})


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, tuple):
        return ",".join(_text(each) for each in cast("tuple[object, ...]", value))
    return str(value.value) if isinstance(value, Enum) else str(value)


def conditions_of(group: FailureGroup) -> dict[str, object]:
    """The conditions that the runs of a group fulfil, and hardly any other run."""
    return {
        "state": group.state.value,
        "flow": group.flow,
        "component": group.component,
        "cause": group.cause,
        "text": text_of_shape(group.shape),
        "since": str(group.first_ms),
        "until": str(group.last_ms + 1),
        "handled": False,
    }


def text_of_shape(shape: str) -> str | None:
    """The longest part of a shape without numbers; None if every part is too short."""
    longest = max((part.strip() for part in shape.split("#")), key=len, default="")
    return longest[:MAX_TEXT] if len(longest) >= MIN_TEXT else None


def fields_of(run_filter: RunFilter) -> dict[str, str]:
    """A filter as the fields of a form; `api.filters.Conditions` reads them."""
    given = msgspec.structs.asdict(run_filter)
    return {
        name: _text(given[of])
        for of, name in _FIELDS.items()
        if given[of] is not None
    }  # fmt: skip


def words_of(run_filter: RunFilter, zone: Zone) -> list[tuple[str, str]]:
    """The conditions of a filter as pairs of a name and a value."""
    found: list[tuple[str, str]] = []
    given = msgspec.structs.asdict(run_filter)
    for of, name in _FIELDS.items():
        value = given[of]
        if value is None:
            continue
        if of in ("since_ms", "until_ms"):
            text = f"{zone.full(value)} {zone.label}"
        elif of == "handled":
            text = "yes" if value else "no"
        elif of == "slower_ms":
            text = f"{value:,} ms or longer"
        else:
            text = _text(value).replace(",", ", ") if of == "states" else _text(value)
        found.append((_NAMES.get(name, name), text))
    return found


# The conditions of a `RunFilter`, and their names in queries.
_FIELDS = {
    "flow": "flow", "states": "state", "component": "component", "cause": "cause", "node": "node",
    "source": "source", "since_ms": "since", "until_ms": "until", "text": "text",
    "handled": "handled", "slower_ms": "slower_ms",
}  # fmt: skip
_NAMES = {
    "since": "accepted from",
    "until": "accepted before",
    "text": "reason contains",
    "handled": "repeated or discarded before",
    "slower_ms": "took",
}
