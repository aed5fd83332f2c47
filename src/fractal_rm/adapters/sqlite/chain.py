"""The chain of checksums: each page's covers the page, its place, and the checksum before it.

A byte that flipped, a page that is missing, moved, or belongs to another run: the chain of that
run does not hold any more (G14).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import msgspec

from fractal_rm.domain.run import AnyFact

Page = list[tuple[int, AnyFact]]  # facts and their moments, milliseconds since 1970

encode_page = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Page)


class ChainBroken(Exception):
    """Says which page does not hold."""


def link(before: bytes, n: int, body: bytes) -> bytes:
    """The checksum of page ``n``; before the first stands the run's id."""
    return hashlib.blake2b(b"%b\0%d\0%b" % (before, n, body), digest_size=8).digest()


def verified(
    run_id: str, rows: Iterable[tuple[int, bytes, bytes]], count: int, last: bytes
) -> Page:
    """The facts of a run, from rows ``(n, body, sum)``. Raises ChainBroken."""
    before, expected = run_id.encode(), 1
    facts: Page = []
    for n, body, stored in rows:
        if n != expected:
            raise ChainBroken(f"page {expected} of run {run_id} is missing")
        try:
            before = link(before, n, body)
            if before != stored:
                raise ChainBroken(f"the checksum of page {n} of run {run_id} does not hold")
            facts += _decoder.decode(body)
        except (msgspec.MsgspecError, TypeError) as error:
            raise ChainBroken(f"page {n} of run {run_id} cannot be read: {error}") from error
        expected += 1
    if expected - 1 != count or before != last:
        raise ChainBroken(f"run {run_id} has {expected - 1} of {count} pages")
    return facts
