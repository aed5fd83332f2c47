"""The records of the log, as JSON. A body is a list of records. A record is a list.

    ["flow", version, flow]          the definition of a flow, before the first run that uses it
    ["run", id, flow id, key, digest, key_until_ms, [facts], ahead_ms]
                                     a new run; the flow id and the key may be null
    ["fact", id, fact]               a fact of an open run
    ["end", id, fact, ahead_ms]      the end of a run
    ["after-end", id, fact]          a fact of a run that has ended before
    ["again", id, times]             the trigger of a run arrived again, ``times`` times
    ["blobs", [refs]]                all blobs of the body; the first record, if there are any

A fact is ``[at_ms, {…}]``, where ``at_ms`` is wall time in milliseconds since 1970. `timed`
describes how a fact refers to a blob. ``ahead_ms`` is the retention clock minus the wall clock when
the run ended.
"""

from __future__ import annotations

from typing import Union

import msgspec

from fractal_rm.adapters.log.timed import Ref

encode = msgspec.json.Encoder().encode


class FlowRecord(msgspec.Struct, array_like=True, tag="flow", frozen=True, gc=False):
    """The definition of a flow. ``version`` identifies its content."""

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
    """The end of a run."""

    run_id: str
    fact: msgspec.Raw
    ahead_ms: int


class AfterEndRecord(msgspec.Struct, array_like=True, tag="after-end", frozen=True, gc=False):
    """A fact of a run that has ended before. It does not change the state of the run."""

    run_id: str
    fact: msgspec.Raw


class DuplicateRecord(msgspec.Struct, array_like=True, tag="again", frozen=True, gc=False):
    """Duplicates of the trigger of a run."""

    run_id: str
    times: int = 1


class BlobsRecord(msgspec.Struct, array_like=True, tag="blobs", frozen=True, gc=False):
    """The references to all blobs of a body, to verify the blobs without decoding the facts."""

    refs: list[Ref]


Record = Union[
    FlowRecord, RunRecord, FactRecord, EndRecord, AfterEndRecord, DuplicateRecord, BlobsRecord
]
decode = msgspec.json.Decoder(list[Record]).decode
_decode_begin = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_blobs = msgspec.json.Decoder(BlobsRecord).decode


def blob_refs_of(body: bytes) -> list[Ref]:
    """The blobs that a body refers to. Empty if the body is invalid: `decode` raises an error."""
    if not body.startswith(b'[["blobs",'):
        return []
    try:
        return _decode_blobs(_decode_begin(body)[0]).refs
    except (msgspec.MsgspecError, RecursionError):
        return []
