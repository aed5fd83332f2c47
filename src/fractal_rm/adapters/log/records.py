"""What the log says, as JSON: a body is a list of records, each a list that begins with its kind.

    ["flow", version, flow]                                  a definition, before the first run
    ["run", id, flow's id, key, digest, key's end, [facts]]  a new run; null for what has none
    ["fact", id, fact]                                       of an open run
    ["end", id, fact, ahead_ms]                              its last one
    ["again", id, times]                                     its trigger came again

A fact is ``[at_ms, {…}]``, with the wall clock as it stood. ``ahead_ms``: so far the clock by which
history ages was ahead of that.
"""

from __future__ import annotations

from typing import Union

import msgspec

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


Record = Union[FlowRecord, RunRecord, FactRecord, EndRecord, AgainRecord]
decode = msgspec.json.Decoder(list[Record]).decode
