"""What references and templates come to in a run. Plain functions: no I/O, no clock."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable
from typing import Any

import msgspec

from fractal_rm.domain.expression import (
    Base64,
    Header,
    Item,
    ListOf,
    Literal,
    ObjectOf,
    Payload,
    Reference,
    Result,
    Status,
    Value,
)
from fractal_rm.domain.flow_errors import CannotEvaluate
from fractal_rm.domain.seen import Head, Seen, encoded

MOST_BODY_BYTES = 8 * 1024 * 1024  # of what a template or items come to


def evaluate(value: Value, seen: Seen) -> Any:
    """What a value comes to, as JSON is read into Python. Raises CannotEvaluate."""
    if isinstance(value, (Payload, Result, Item)):
        return seen.picked(value)
    if isinstance(value, Base64):
        return _in_base64(value.of, seen)
    if isinstance(value, Literal):
        return value.value
    if isinstance(value, ListOf):
        return [evaluate(each, seen) for each in value.values]
    if isinstance(value, ObjectOf):
        return {key: evaluate(each, seen) for key, each in value.fields}
    return _asked(value, seen.head(value.number))


def _asked(value: Status | Header, head: Head | None) -> int | str | None:
    if head is None:
        return None
    return (head.status or None) if isinstance(value, Status) else head.headers.get(value.name)


def as_json(value: Value, seen: Seen) -> bytes:
    """What a value comes to, as JSON text. Raises CannotEvaluate, over MOST_BODY_BYTES too.

    A payload or a result that is sent whole is not read on the way.
    """
    if isinstance(value, (Payload, Result, Item)) and not value.path:
        return bytes(seen.raw(value))
    if isinstance(value, ListOf):
        return b"[" + _joined(as_json(each, seen) for each in value.values) + b"]"
    if isinstance(value, ObjectOf):
        fields = (msgspec.json.encode(k) + b": " + as_json(v, seen) for k, v in value.fields)
        return b"{" + _joined(fields) + b"}"
    return encoded(evaluate(value, seen))


def _joined(parts: Iterable[bytes]) -> bytes:
    """Parts with commas between them, given up before they fill the memory."""
    taken: list[bytes] = []
    size = 0
    for part in parts:
        size += len(part)
        check_size(size)
        taken.append(part)
    return b", ".join(taken)


def check_size(size: int) -> None:
    """Raise CannotEvaluate where so many bytes are more than is sent or kept."""
    if size > MOST_BODY_BYTES:
        raise CannotEvaluate(f"it comes to more than {MOST_BODY_BYTES >> 20} MiB")


def as_it_is(ref: Reference, seen: Seen) -> bytes | str | None:
    """What ``RAW ref`` stands for: bytes, or as `as_text`. Raises CannotEvaluate."""
    data = seen.data(ref)
    return as_text(ref, seen) if data is None else data


def as_sent(ref: Reference, seen: Seen) -> bytes:
    """The bytes that ``RAW ref`` sends: a text as UTF-8, null as nothing. Raises CannotEvaluate."""
    return _bytes_of(as_it_is(ref, seen) or b"")


def _bytes_of(found: bytes | str) -> bytes:
    return found.encode() if isinstance(found, str) else found


def _in_base64(ref: Reference, seen: Seen) -> str | None:
    """The bytes that RAW would send, as a text; null as None. Raises CannotEvaluate."""
    found = as_it_is(ref, seen)
    if found is None:
        return None
    sent = _bytes_of(found)
    check_size(len(sent) // 3 * 4)
    return b2a_base64(sent, newline=False).decode()


def as_text(value: Value, seen: Seen) -> str | None:
    """A text as it is, anything else as JSON, null as None. Raises CannotEvaluate."""
    found = evaluate(value, seen)
    if found is None or isinstance(found, str):
        return found
    return as_json(Literal(found), seen).decode()
