"""The chain of checksums: each fact's covers the fact, its place, and the checksum before it.

A byte that flipped, a fact that is missing, moved, or belongs to another run: the chain of that
run does not hold any more (G14).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from fractal_rm.domain.run import AnyFact

encode_fact = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(AnyFact)


class ChainBroken(Exception):
    """Says which fact does not hold."""


def link(before: bytes, n: int, at_ms: int, body: bytes) -> bytes:
    """The checksum of fact ``n``; before the first stands the run's id."""
    text = b"%b\0%d\0%d\0%b" % (before, n, at_ms, body)
    return hashlib.blake2b(text, digest_size=8).digest()


def verified(
    run_id: str, rows: Iterable[tuple[int, int, bytes, bytes]], count: int, last: bytes
) -> list[tuple[int, AnyFact]]:
    """Facts with their moments, from rows ``(n, at_ms, body, sum)``. Raises ChainBroken."""
    before, expected = run_id.encode(), 1
    facts: list[tuple[int, AnyFact]] = []
    for n, at_ms, body, stored in rows:
        if n != expected:
            raise ChainBroken(f"fact {expected} of run {run_id} is missing")
        try:
            before = link(before, n, at_ms, body)
            if before != stored:
                raise ChainBroken(f"the checksum of fact {n} of run {run_id} does not hold")
            facts.append((at_ms, _decoder.decode(body)))
        except (msgspec.MsgspecError, TypeError) as error:
            raise ChainBroken(f"fact {n} of run {run_id} cannot be read: {error}") from error
        expected += 1
    if len(facts) != count or before != last:
        raise ChainBroken(f"run {run_id} has {len(facts)} of {count} facts")
    return facts
