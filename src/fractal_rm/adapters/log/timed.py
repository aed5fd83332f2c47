"""A fact with its moment, as log and history say it. A large value of it stands in a file, once.

    [at_ms, {…}]
    [at_ms, {…, "payload": null}, ["payload", name, size, crc]]     where the payload is a blob

So who wants to know what happened, and not what was sent, reads no blob; see `blobs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Union
from zlib import crc32

import msgspec
from msgspec import UNSET

from fractal_rm.domain.facts import AnyFact

VALUE_BYTES = 64 * 1024  # what is larger is a blob

_NULL = msgspec.Raw(b"null")
# Which values of facts may be large, and what stands in the fact instead.
_INSTEAD: dict[str, msgspec.Raw | bytes] = {
    "payload": _NULL, "result": _NULL, "reply": _NULL, "data": b"",
}  # fmt: skip


class Ref(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """Which ``field`` of a fact is a blob, and which one: the ``name`` of its file.

    ``size`` is in bytes, ``crc`` a CRC-32. Without a name the value is gone, as a repair has found.
    """

    field: str
    name: str | None
    size: int
    crc: int


class Timed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A fact, and when it happened, milliseconds since 1970."""

    at_ms: int
    fact: AnyFact
    ref: Ref | None = None

    @property
    def said(self) -> tuple[int, AnyFact] | tuple[int, AnyFact, Ref]:
        """As it is written."""
        return (self.at_ms, self.fact) if self.ref is None else (self.at_ms, self.fact, self.ref)


class _Loose(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A fact of any release."""

    at_ms: msgspec.Raw
    fact: msgspec.Raw
    ref: Ref | None = None


class Blob(NamedTuple):
    """A large value, on its way into its file."""

    ref: Ref
    value: bytes | msgspec.Raw


Read = Callable[[Ref], Union[bytes, None]]  # a blob; None: the fact stays without it

decode = msgspec.json.Decoder(Timed).decode
decode_page = msgspec.json.Decoder(list[Timed]).decode
_decode_loose = msgspec.json.Decoder(_Loose).decode


def decode_any(raw: msgspec.Raw) -> tuple[int, AnyFact | None]:
    """When something happened, and what; None: this release cannot read it."""
    try:
        timed = decode(raw)
    except msgspec.ValidationError:
        return msgspec.json.decode(_decode_loose(raw).at_ms, type=int), None
    return timed.at_ms, timed.fact


def take_out(fact: AnyFact, new_name: Callable[[], str]) -> tuple[AnyFact, Blob] | None:
    """A fact without its large value, and that; None: it has none."""
    for field, instead in _INSTEAD.items():
        value = getattr(fact, field, UNSET)
        if value is not UNSET and len(value) > VALUE_BYTES:
            blob = Blob(Ref(field, new_name(), len(value), crc32(value)), value)
            return msgspec.structs.replace(fact, **{field: instead}), blob
    return None


def put_back(timed: Timed, read: Read) -> AnyFact:
    """A whole fact. Raises what ``read`` raises."""
    ref = timed.ref
    value = read(ref) if ref is not None else None
    if ref is None or value is None:
        return timed.fact
    whole = value if ref.field == "data" else msgspec.Raw(value)
    return msgspec.structs.replace(timed.fact, **{ref.field: whole})


def without_value(raw: msgspec.Raw) -> msgspec.Raw:
    """A fact that says that its blob is gone."""
    loose = _decode_loose(raw)
    if loose.ref is None:
        return raw
    ref = msgspec.structs.replace(loose.ref, name=None)
    return msgspec.Raw(msgspec.json.encode((loose.at_ms, loose.fact, ref)))


def refs_in(facts: Iterable[msgspec.Raw]) -> Iterator[Ref]:
    """What facts refer to, also those that this release cannot read."""
    for raw in facts:
        ref = _decode_loose(raw).ref
        if ref is not None:
            yield ref
