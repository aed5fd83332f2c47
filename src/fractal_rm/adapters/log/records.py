"""What the log says, as JSON: a body is a list of records, each a list that begins with its kind.

    ["flow", version, flow]                                  a definition, before the first run
    ["run", id, flow's id, key, digest, key's end, [facts]]  a new run; null for what has none
    ["fact", id, fact]                                       of an open run
    ["end", id, fact, ahead_ms]                              its last one
    ["again", id, times]                                     its trigger came again
    ["blobs", [refs]]                                        the blobs of facts behind it; the first

A fact is ``[at_ms, {…}]``, with the wall clock as it stood; `timed` says how one refers to a blob.
``ahead_ms``: so far the clock by which history ages was ahead of that.
"""

from __future__ import annotations

from typing import Union

import msgspec

from fractal_rm.adapters.log.timed import Ref

encode = msgspec.json.Encoder().encode


class FlowRecord(msgspec.Struct, array_like=True, tag="flow", frozen=True, gc=False):
    """A flow's definition, by its version."""

    version: str
    body: msgspec.Raw


class RunRecord(msgspec.Struct, array_like=True, tag="run", frozen=True, gc=False):
    """A new run, or a dead letter. ``facts`` is a list of facts."""

    run_id: str
    flow: str | None
    key: str | None
    digest: str
    key_until_ms: int
    facts: list[msgspec.Raw]
    ahead_ms: int = 0


class FactRecord(msgspec.Struct, array_like=True, tag="fact", frozen=True, gc=False):
    """What happened to an open run."""

    run_id: str
    fact: msgspec.Raw


class EndRecord(msgspec.Struct, array_like=True, tag="end", frozen=True, gc=False):
    """How a run ended."""

    run_id: str
    fact: msgspec.Raw
    ahead_ms: int


class AgainRecord(msgspec.Struct, array_like=True, tag="again", frozen=True, gc=False):
    """A trigger that is a run already."""

    run_id: str
    times: int = 1


class BlobsRecord(msgspec.Struct, array_like=True, tag="blobs", frozen=True, gc=False):
    """All blobs of a body, so that it is known without a look at each fact whether it is whole."""

    refs: list[Ref]


Record = Union[FlowRecord, RunRecord, FactRecord, EndRecord, AgainRecord, BlobsRecord]
decode = msgspec.json.Decoder(list[Record]).decode
_decode_begin = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_blobs = msgspec.json.Decoder(BlobsRecord).decode


def refs_named(body: bytes) -> list[Ref]:
    """The blobs that a body names; none of one that nobody can read, which is found out later."""
    if not body.startswith(b'[["blobs",'):
        return []
    try:
        return _decode_blobs(_decode_begin(body)[0]).refs
    except (msgspec.MsgspecError, RecursionError):
        return []
