"""The records of the log, as JSON. A body is a list of records, each a list: its kind comes first.

    ["flow", version, flow]                                  a definition, before the first run
    ["run", id, flow's id, key, digest, key's end, [facts]]  a new run; null for what has none
    ["fact", id, fact]                                       a fact of an open run
    ["end", id, fact, ahead_ms]                              the last fact of a run
    ["again", id, times]                                     its trigger arrived again
    ["blobs", [refs]]                                        all blobs of the body; comes first

A fact is ``[at_ms, {…}]``, where ``at_ms`` is wall time; `timed` describes references to blobs.
``ahead_ms`` is the retention clock minus the wall clock at that time.
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
    """A fact of an open run."""

    run_id: str
    fact: msgspec.Raw


class EndRecord(msgspec.Struct, array_like=True, tag="end", frozen=True, gc=False):
    """The last fact of a run."""

    run_id: str
    fact: msgspec.Raw
    ahead_ms: int


class DuplicateRecord(msgspec.Struct, array_like=True, tag="again", frozen=True, gc=False):
    """A duplicate of the trigger of a run."""

    run_id: str
    times: int = 1


class BlobsRecord(msgspec.Struct, array_like=True, tag="blobs", frozen=True, gc=False):
    """All blobs of a body, so that they can be verified without decoding each fact."""

    refs: list[Ref]


Record = Union[FlowRecord, RunRecord, FactRecord, EndRecord, DuplicateRecord, BlobsRecord]
decode = msgspec.json.Decoder(list[Record]).decode
_decode_begin = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_blobs = msgspec.json.Decoder(BlobsRecord).decode


def blob_refs_of(body: bytes) -> list[Ref]:
    """The blobs that a body refers to; empty if it cannot be decoded, which is reported later."""
    if not body.startswith(b'[["blobs",'):
        return []
    try:
        return _decode_blobs(_decode_begin(body)[0]).refs
    except (msgspec.MsgspecError, RecursionError):
        return []
