"""A fact with its time, as JSON in the log and in the history.

    [at_ms, {…}]
    [at_ms, {…, "payload": null}, ["payload", name, size, crc]]     if the payload is a blob

A large value is a blob in a separate file (see `blobs`). A reader that does not need the value does
not read the blob.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple, Union
from zlib import crc32

import msgspec
from msgspec import UNSET

from fractal_rm.domain.facts import AnyFact

MAX_INLINE_BYTES = 64 * 1024  # larger values are stored as blobs

_NULL = msgspec.Raw(b"null")
# Field of a fact that may be large -> the value that replaces a large value.
_PLACEHOLDERS: dict[str, msgspec.Raw | bytes] = {
    "payload": _NULL, "result": _NULL, "reply": _NULL, "data": b"",
}  # fmt: skip


class Ref(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A reference to a blob, which is the value of ``field`` of a fact.

    ``name`` is the name of the file; None: a repair found that the value is lost. ``size`` is in
    bytes, ``crc`` is a CRC-32.
    """

    field: str
    name: str | None
    size: int
    crc: int


class Timed(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A fact, its time in milliseconds since 1970, and the reference to its blob if it has one."""

    at_ms: int
    fact: AnyFact
    ref: Ref | None = None

    @property
    def as_tuple(self) -> tuple[int, AnyFact] | tuple[int, AnyFact, Ref]:
        """The tuple to encode, without ``ref`` if there is none."""
        return (self.at_ms, self.fact) if self.ref is None else (self.at_ms, self.fact, self.ref)


class _AnyRelease(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A fact that is not decoded, since another release may have written it."""

    at_ms: msgspec.Raw
    fact: msgspec.Raw
    ref: Ref | None = None


class Blob(NamedTuple):
    """A large value to write, and the reference to it."""

    ref: Ref
    value: bytes | msgspec.Raw


ReadBlob = Callable[[Ref], Union[bytes, None]]  # returns None to leave the value out of the fact

decode = msgspec.json.Decoder(Timed).decode
decode_page = msgspec.json.Decoder(list[Timed]).decode
_decode_time_and_ref = msgspec.json.Decoder(_AnyRelease).decode


def decode_any_release(raw: msgspec.Raw) -> tuple[int, AnyFact | None]:
    """Decode a time and a fact. The fact is None if this release cannot decode it."""
    try:
        timed = decode(raw)
    except msgspec.ValidationError:
        return msgspec.json.decode(_decode_time_and_ref(raw).at_ms, type=int), None
    return timed.at_ms, timed.fact


def extract_blob(fact: AnyFact, new_name: Callable[[], str]) -> tuple[AnyFact, Blob] | None:
    """Separate a fact from its large value; None: it has no large value.

    Returns the fact without the value, and the value as a blob.
    """
    for field, placeholder in _PLACEHOLDERS.items():
        value = getattr(fact, field, UNSET)
        if value is not UNSET and len(value) > MAX_INLINE_BYTES:
            blob = Blob(Ref(field, new_name(), len(value), crc32(value)), value)
            return msgspec.structs.replace(fact, **{field: placeholder}), blob
    return None


def restore_value(timed: Timed, read: ReadBlob) -> AnyFact:
    """The fact with its large value. Raises the errors of ``read``."""
    ref = timed.ref
    value = read(ref) if ref is not None else None
    if ref is None or value is None:
        return timed.fact
    full_value = value if ref.field == "data" else msgspec.Raw(value)
    return msgspec.structs.replace(timed.fact, **{ref.field: full_value})


def without_value(raw: msgspec.Raw) -> msgspec.Raw:
    """Mark the blob of a fact as lost: remove the name from the reference."""
    undecoded = _decode_time_and_ref(raw)
    if undecoded.ref is None:
        return raw
    ref = msgspec.structs.replace(undecoded.ref, name=None)
    return msgspec.Raw(msgspec.json.encode((undecoded.at_ms, undecoded.fact, ref)))


def refs_in(facts: Iterable[msgspec.Raw]) -> Iterator[Ref]:
    """Yield the references of facts, even of facts that this release cannot decode."""
    for raw in facts:
        ref = _decode_time_and_ref(raw).ref
        if ref is not None:
            yield ref
