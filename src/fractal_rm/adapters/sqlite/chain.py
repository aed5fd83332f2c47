"""The chain of checksums: each page's covers the page, its place, and the checksum before it.

A byte that flipped, a page that is missing, moved, or belongs to another run: the chain of that
run does not hold any more (G14).
"""

from __future__ import annotations

from collections.abc import Iterable
from zlib import crc32

import msgspec

from fractal_rm.domain.facts import AnyFact

Page = list[tuple[int, AnyFact]]  # facts and their moments, milliseconds since 1970

encode_page = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Page)


class ChainBroken(Exception):
    """Says which page does not hold."""


class Unreadable(ChainBroken):
    """A page holds, and this release cannot make facts of it."""


def start_of(run_id: str) -> int:
    """What stands before the checksum of a run's first page."""
    return crc32(run_id.encode())


def link(before: int, n: int, body: bytes) -> int:
    """The checksum of page ``n``: 32 bits, which find what a disk does, not what a forger does."""
    return crc32(body, crc32(b"%d\0" % n, before))


def verified(run_id: str, rows: Iterable[tuple[int, bytes, int]], count: int, last: int) -> Page:
    """The facts of a run, from rows ``(n, body, sum)``. Raises ChainBroken, Unreadable."""
    before, expected = start_of(run_id), 1
    facts: Page = []
    for n, body, stored in rows:
        if n != expected:
            raise ChainBroken(f"page {expected} of run {run_id} is missing")
        try:
            before = link(before, n, body)
            if before != stored:
                raise ChainBroken(f"the checksum of page {n} of run {run_id} does not hold")
        except TypeError as error:
            raise ChainBroken(f"page {n} of run {run_id} cannot be read: {error}") from error
        try:
            facts += _decoder.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise Unreadable(f"page {n} of run {run_id} cannot be read: {error}") from error
        expected += 1
    if expected - 1 != count:
        raise ChainBroken(f"run {run_id} has {expected - 1} of {count} pages")
    if before != last:
        raise ChainBroken(f"the checksum in the row of run {run_id} does not hold")
    return facts
