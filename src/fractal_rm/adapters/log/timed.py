"""A fact with its time, as log and history store it. A large value is in a file of its own.

    [at_ms, {…}]
    [at_ms, {…, "payload": null}, ["payload", name, size, crc]]     if the payload is a blob

A reader that does not need the value reads no blob; see `blobs`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Union
from zlib import crc32

import msgspec
from msgspec import UNSET

from fractal_rm.domain.facts import AnyFact

MAX_INLINE_BYTES = 64 * 1024  # larger values are blobs

_NULL = msgspec.Raw(b"null")
# The fields of facts that may be large, and what the fact has in place of a blob.
_INSTEAD: dict[str, msgspec.Raw | bytes] = {
    "payload": _NULL, "result": _NULL, "reply": _NULL, "data": b"",
}  # fmt: skip


class Ref(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A reference to a blob: the ``field`` of the fact that it is, and the ``name`` of its file.

    ``size`` is in bytes, ``crc`` a CRC-32. No name: a repair found that the value is lost.
    """

    field: str
    name: str | None
    size: int
    crc: int


class Timed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A fact and its time, milliseconds since 1970."""

    at_ms: int
    fact: AnyFact
    ref: Ref | None = None

    @property
    def as_tuple(self) -> tuple[int, AnyFact] | tuple[int, AnyFact, Ref]:
        """The tuple that is encoded."""
        return (self.at_ms, self.fact) if self.ref is None else (self.at_ms, self.fact, self.ref)


class _Loose(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A fact of any release, not decoded."""

    at_ms: msgspec.Raw
    fact: msgspec.Raw
    ref: Ref | None = None


class Blob(NamedTuple):
    """A large value that is to be written, and its reference."""

    ref: Ref
    value: bytes | msgspec.Raw


ReadBlob = Callable[[Ref], Union[bytes, None]]  # reads a blob; None: leave the value out

decode = msgspec.json.Decoder(Timed).decode
decode_page = msgspec.json.Decoder(list[Timed]).decode
_decode_loose = msgspec.json.Decoder(_Loose).decode


def decode_any(raw: msgspec.Raw) -> tuple[int, AnyFact | None]:
    """The time of a fact, and the fact; None: this release cannot decode it."""
    try:
        timed = decode(raw)
    except msgspec.ValidationError:
        return msgspec.json.decode(_decode_loose(raw).at_ms, type=int), None
    return timed.at_ms, timed.fact


def extract_blob(fact: AnyFact, new_name: Callable[[], str]) -> tuple[AnyFact, Blob] | None:
    """The fact without its large value, and the value as a blob; None: it has none."""
    for field, instead in _INSTEAD.items():
        value = getattr(fact, field, UNSET)
        if value is not UNSET and len(value) > MAX_INLINE_BYTES:
            blob = Blob(Ref(field, new_name(), len(value), crc32(value)), value)
            return msgspec.structs.replace(fact, **{field: instead}), blob
    return None


def put_back(timed: Timed, read: ReadBlob) -> AnyFact:
    """The fact with its large value. Raises what ``read`` raises."""
    ref = timed.ref
    value = read(ref) if ref is not None else None
    if ref is None or value is None:
        return timed.fact
    full_value = value if ref.field == "data" else msgspec.Raw(value)
    return msgspec.structs.replace(timed.fact, **{ref.field: full_value})


def without_value(raw: msgspec.Raw) -> msgspec.Raw:
    """The fact with a reference that has no name: its blob is lost."""
    loose = _decode_loose(raw)
    if loose.ref is None:
        return raw
    ref = msgspec.structs.replace(loose.ref, name=None)
    return msgspec.Raw(msgspec.json.encode((loose.at_ms, loose.fact, ref)))


def refs_in(facts: Iterable[msgspec.Raw]) -> Iterator[Ref]:
    """The references of facts, including facts that this release cannot decode."""
    for raw in facts:
        ref = _decode_loose(raw).ref
        if ref is not None:
            yield ref
