"""Masks a fact: hides the values that a reader may not see, and that the history may not keep."""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import replace

from fractal_rm.domain.cause import ResponseExcerpt
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    Dead,
    ElementFinished,
    Finished,
    StepFailed,
    StepPassed,
)
from fractal_rm.domain.flow import Keep, KeepSettings
from fractal_rm.domain.masking.fields import STARS, field_mask
from fractal_rm.domain.masking.omitted import Omission, Omitted

HEAD_BYTES = 1024  # the bytes of a value that KEEP head keeps
HIDDEN = msgspec.Raw(b'"(hidden)"')
NOT_KEPT = msgspec.Raw(b'"(not kept)"')
_MASKED = msgspec.Raw(b'"' + STARS.encode() + b'"')

# The field of a fact that has a value: a payload, a result or a reply.
_VALUE_FIELDS: dict[type[AnyFact], str] = {
    Accepted: "payload", Finished: "result", ElementFinished: "result", StepPassed: "reply",
}  # fmt: skip


def masked(
    fact: AnyFact, keeping: KeepSettings | UnsetType = UNSET, *, shows_values: bool = True
) -> AnyFact:
    """The fact as a reader may see it. Returns the same object if nothing is hidden.

    ``keeping``: the KEEP and MASK of the flow of the run. ``shows_values``: whether the reader has
    the scope ``payload``. Masking a fact again changes nothing.
    """
    if not shows_values:
        return _without_values(fact)
    if keeping is UNSET:
        return fact
    field = _VALUE_FIELDS.get(type(fact))
    if field is not None:
        return fact if getattr(fact, field) is UNSET else _with_kept_value(fact, field, keeping)
    return _without_excerpts(fact, keeping)


def _without_excerpts(fact: AnyFact, keeping: KeepSettings) -> AnyFact:
    """The fact without the parts of responses and messages that it quotes."""
    if isinstance(fact, StepFailed) and fact.answer is not UNSET:
        only_status = ResponseExcerpt(fact.answer.status)
        return fact if fact.answer == only_status else replace(fact, answer=only_status)
    if isinstance(fact, Dead) and fact.body:  # it may be no valid JSON, so no field is found in it
        kept = HEAD_BYTES if keeping.keep is Keep.HEAD else len(fact.body)
        kept = 0 if keeping.mask or keeping.keep is Keep.NONE else kept
        return fact if len(fact.body) <= kept else replace(fact, body=fact.body[:kept])
    return fact


def _without_values(fact: AnyFact) -> AnyFact:  # noqa: PLR0911 - one for each kind of fact
    """The fact with `HIDDEN` in place of values that senders and components sent."""
    match fact:
        case Accepted():
            return replace(fact, payload=HIDDEN)
        case Finished():
            return replace(fact, result=HIDDEN, data=UNSET, headers=UNSET)
        case ElementFinished():
            return replace(fact, result=HIDDEN, data=UNSET)
        case StepFailed():
            return replace(fact, answer=UNSET)
        case StepPassed():
            return fact if fact.reply is UNSET else replace(fact, reply=HIDDEN, data=UNSET)
        case Dead():
            return replace(fact, body=b"")
        case _:
            return fact


def _with_kept_value(fact: Any, field: str, keeping: KeepSettings) -> AnyFact:
    if fact.omitted is not UNSET and fact.omitted.what is not Omission.FIELDS:
        return fact  # masked before
    value: msgspec.Raw = getattr(fact, field)
    data: bytes | UnsetType = getattr(fact, "data", UNSET)
    if data is UNSET and bytes(value) == b"null":
        return fact
    size = len(value) if data is UNSET else len(data)
    changes: dict[str, Any] = {}
    if keeping.keep is Keep.NONE:
        changes = {field: NOT_KEPT, "omitted": Omitted(Omission.ALL, size)}
    else:
        if keeping.mask:
            changes = _masked_fields(value, data, field, size, keeping.mask)
        if keeping.keep is Keep.HEAD:
            changes |= _head(changes.get(field, value), changes.get("data", data), field, size)
    if "data" not in changes and data is not UNSET and field in changes:
        changes["data"] = UNSET
    headers: dict[str, str] | UnsetType = getattr(fact, "headers", UNSET)
    if headers is not UNSET and headers:
        changes["headers"] = _masked_headers(headers, keeping)
    return replace(fact, **changes) if changes else fact


def _masked_fields(
    value: msgspec.Raw, data: bytes | UnsetType, field: str, size: int, mask: tuple[str, ...]
) -> dict[str, Any]:
    """The changes of a fact for MASK. Bytes are masked as a whole, as they have no fields."""
    if data is not UNSET:
        return {field: _MASKED, "data": UNSET, "omitted": Omitted(Omission.ALL, size)}
    new = field_mask(mask).json(bytes(value))
    if new is None or new == bytes(value):
        return {}
    return {field: msgspec.Raw(new), "omitted": Omitted(Omission.FIELDS, size)}


def _head(
    value: msgspec.Raw, data: bytes | UnsetType, field: str, size: int
) -> dict[str, Any]:  # fmt: skip
    """The changes of a fact for KEEP head: a text with the first bytes, or the first bytes."""
    omitted = Omitted(Omission.REST, size)
    if data is not UNSET:
        return (
            {"data": data[:HEAD_BYTES], field: value, "omitted": omitted}
            if size > HEAD_BYTES
            else {}
        )
    if len(value) <= HEAD_BYTES:
        return {}
    content = bytes(value)
    if content.startswith(b'"'):
        content = msgspec.json.decode(content, type=str)[:HEAD_BYTES].encode()
    head = content[:HEAD_BYTES].decode("utf-8", "ignore")
    return {field: msgspec.Raw(msgspec.json.encode(head)), "omitted": omitted}


def _masked_headers(headers: dict[str, str], keeping: KeepSettings) -> dict[str, str] | UnsetType:
    if keeping.keep is Keep.NONE:
        return UNSET
    mask = field_mask(keeping.mask)
    return {name: STARS if mask.is_masked_name(name) else each for name, each in headers.items()}
