"""Evaluate references and templates in a context. Plain functions, without I/O or a clock."""

from __future__ import annotations

from binascii import b2a_base64
from collections.abc import Iterable
from typing import Any

import msgspec

from fractal_rm.domain.evaluation_context import EvaluationContext, ResponseHead, encode_value
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

MAX_BODY_BYTES = 8 * 1024 * 1024  # the maximum size of a body or a reply that a step makes


def evaluate(value: Value, context: EvaluationContext) -> Any:
    """Evaluate a value. Return plain Python values, as a JSON decoder does.

    Raises CannotEvaluate.
    """
    if isinstance(value, (Payload, Result, Item)):
        return context.value_of(value)
    if isinstance(value, Base64):
        return _base64_of(value.of, context)
    if isinstance(value, Literal):
        return value.value
    if isinstance(value, ListOf):
        return [evaluate(each, context) for each in value.values]
    if isinstance(value, ObjectOf):
        return {key: evaluate(each, context) for key, each in value.fields}
    return _from_head(value, context.head(value.number))


def _from_head(value: Status | Header, head: ResponseHead | None) -> int | str | None:
    if head is None:
        return None
    return (head.status or None) if isinstance(value, Status) else head.headers.get(value.name)


def as_json(value: Value, context: EvaluationContext) -> bytes:
    """Evaluate a value to JSON text. A whole payload or result is copied without parsing it.

    Raises CannotEvaluate, also if the text is longer than MAX_BODY_BYTES.
    """
    if isinstance(value, (Payload, Result, Item)) and not value.path:
        return bytes(context.json_of(value))
    if isinstance(value, ListOf):
        return b"[" + _join(as_json(each, context) for each in value.values) + b"]"
    if isinstance(value, ObjectOf):
        fields = (msgspec.json.encode(k) + b": " + as_json(v, context) for k, v in value.fields)
        return b"{" + _join(fields) + b"}"
    return encode_value(evaluate(value, context))


def _join(parts: Iterable[bytes]) -> bytes:
    """Join parts with commas. Check the size before each part is added, to limit memory."""
    joined: list[bytes] = []
    size = 0
    for part in parts:
        size += len(part)
        check_size(size)
        joined.append(part)
    return b", ".join(joined)


def check_size(size: int) -> None:
    """Raise CannotEvaluate if ``size`` is more than MAX_BODY_BYTES."""
    if size > MAX_BODY_BYTES:
        raise CannotEvaluate(f"the value is larger than {MAX_BODY_BYTES >> 20} MiB")


def raw_value(ref: Reference, context: EvaluationContext) -> bytes | str | None:
    """The value of ``RAW ref``. Any value that is not bytes is converted by `as_text`.

    Raises CannotEvaluate.
    """
    data = context.bytes_of(ref)
    return as_text(ref, context) if data is None else data


def raw_bytes(ref: Reference, context: EvaluationContext) -> bytes:
    """The bytes that ``RAW ref`` sends. Text becomes UTF-8, and null becomes b"".

    Raises CannotEvaluate.
    """
    return _to_bytes(raw_value(ref, context) or b"")


def _to_bytes(value: bytes | str) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _base64_of(ref: Reference, context: EvaluationContext) -> str | None:
    """The bytes that RAW would send, encoded in base64; None for null. Raises CannotEvaluate."""
    value = raw_value(ref, context)
    if value is None:
        return None
    data = _to_bytes(value)
    check_size(len(data) // 3 * 4)
    return b2a_base64(data, newline=False).decode()


def as_text(value: Value, context: EvaluationContext) -> str | None:
    """Evaluate a value to text.

    A string is not changed, null becomes None, and any other value becomes JSON text. Raises
    CannotEvaluate.
    """
    evaluated = evaluate(value, context)
    if evaluated is None or isinstance(evaluated, str):
        return evaluated
    return as_json(Literal(evaluated), context).decode()
