"""Leaves out the values of ended runs that their flows do not keep (KEEP, MASK)."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec
from msgspec import UNSET, UnsetType

from fractal_rm.adapters.log.blobs import BlobLost
from fractal_rm.adapters.log.timed import ReadBlob, Ref, Timed, restore_value
from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.flow import Keep, KeepSettings
from fractal_rm.domain.masking.facts import masked


class _Settings(msgspec.Struct, frozen=True):
    keeping: KeepSettings | UnsetType = UNSET


_decode = msgspec.json.Decoder(_Settings).decode


@lru_cache(maxsize=1_000)
def keeping_in(flow_body: bytes) -> KeepSettings | UnsetType:
    """The KEEP and MASK in the JSON of a flow, which any release may have written."""
    if b'"keeping"' not in flow_body:
        return UNSET
    try:
        return _decode(flow_body).keeping
    except (msgspec.MsgspecError, RecursionError):
        return UNSET


def kept_facts(
    facts: Iterable[Timed], keeping: KeepSettings, read_blob: ReadBlob
) -> tuple[list[Timed], list[Ref]]:
    """The facts of an ended run with the values that its flow keeps.

    Returns also the references to the blobs that are not needed any more. A value that cannot be
    read now is left out.
    """
    kept: list[Timed] = []
    unused: list[Ref] = []
    for each in facts:
        fact = _kept_fact(each, keeping, read_blob)
        if fact is None:
            kept.append(each)
        else:
            kept.append(Timed(each.at_ms, fact))
            if each.ref is not None:
                unused.append(each.ref)
    return kept, unused


def _kept_fact(timed: Timed, keeping: KeepSettings, read_blob: ReadBlob) -> AnyFact | None:
    """The fact without the values that are not kept; None: it does not change."""
    ref = timed.ref
    if ref is None:
        fact = timed.fact
    elif keeping.keep is Keep.NONE:  # the content of the blob is not needed
        fact = restore_value(timed, lambda _: b'""')
    else:
        try:
            fact = restore_value(timed, read_blob)
        except BlobLost:
            return None
        except OSError:  # such as too many open files: it is not known what the value contains
            return _kept_fact(timed, KeepSettings(Keep.NONE), read_blob)
    kept = masked(fact, keeping)
    if kept is fact:
        return None
    omitted = getattr(kept, "omitted", UNSET)
    if ref is not None and omitted is not UNSET:
        return msgspec.structs.replace(
            kept, omitted=msgspec.structs.replace(omitted, size=ref.size)
        )
    return kept
