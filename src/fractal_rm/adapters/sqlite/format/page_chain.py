"""The chain of checksums of a run's pages.

Each checksum covers the page, its number, and the checksum of the previous page. So the chain shows
a flipped bit, and also a page that is missing, was moved, or belongs to another run.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator
from zlib import crc32

import msgspec

from fractal_rm.adapters.log import timed
from fractal_rm.adapters.log.blobs import BlobLost
from fractal_rm.adapters.log.timed import ReadBlob, Timed
from fractal_rm.domain.facts import AnyFact

Facts = list[tuple[int, AnyFact]]  # each with its time, milliseconds since 1970
Pages = Iterable[tuple[int, bytes, int]]  # n, body, sum

encode_page = msgspec.json.Encoder().encode
_decoder = msgspec.json.Decoder(Facts)


class ChainBroken(Exception):
    """A page is missing or does not match its checksum; the text says which."""


class PageUnreadable(ChainBroken):
    """A page matches its checksum, but this release cannot decode its facts or read its blobs."""


def chain_start(run_id: str) -> int:
    """Return the value from which the checksum of a run's first page is computed."""
    return crc32(run_id.encode())


def page_checksum(previous: int, n: int, body: bytes) -> int:
    """Return the checksum of page ``n``. ``previous`` is the checksum of the previous page.

    It is a CRC-32, which detects damage by a disk, but no intended change.
    """
    return crc32(body, crc32(b"%d\0" % n, previous))


def verified_facts(
    run_id: str, pages: Pages, page_count: int, last_checksum: int,
    read_blob: ReadBlob | None = None,
) -> Facts:  # fmt: skip
    """Verify all pages of a run and return its facts.

    ``page_count`` and ``last_checksum`` are the expected number of pages and the expected checksum
    of the last page. Without ``read_blob``, facts lack their large values.

    Raises ChainBroken, PageUnreadable.
    """
    facts: Facts = []
    for n, body in _verified(run_id, pages, page_count, last_checksum):
        facts += _facts_of(run_id, n, body, read_blob)
    return facts


def valid_timed_facts(
    run_id: str, pages: Pages, page_count: int, last_checksum: int
) -> tuple[list[Timed], str | None]:
    """Return the facts before the first invalid page, and a message about what is invalid.

    The message is None if nothing is invalid. Blobs are not read. The arguments are those of
    `verified_facts`.
    """
    facts: list[Timed] = []
    try:
        for n, body in _verified(run_id, pages, page_count, last_checksum):
            facts += _timed_of(run_id, n, body)
    except (ChainBroken, sqlite3.DatabaseError) as error:
        return facts, str(error)
    return facts, None


def verify_chain(run_id: str, pages: Pages, page_count: int, last_checksum: int) -> None:
    """Verify the pages of a run without decoding them. Raises ChainBroken."""
    for _ in _verified(run_id, pages, page_count, last_checksum):
        pass


def _facts_of(run_id: str, n: int, body: bytes, read_blob: ReadBlob | None) -> Facts:
    try:
        return _decoder.decode(body)
    except msgspec.ValidationError:
        pass  # perhaps the page refers to blobs: use the slower decoder below
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _unreadable(run_id, n, error) from error
    timed_facts = _timed_of(run_id, n, body)
    if read_blob is None:
        return [(each.at_ms, each.fact) for each in timed_facts]
    try:
        return [(each.at_ms, timed.restore_value(each, read_blob)) for each in timed_facts]
    except BlobLost as error:
        raise _unreadable(run_id, n, error) from error


def _timed_of(run_id: str, n: int, body: bytes) -> list[Timed]:
    try:
        return timed.decode_page(body)
    except (msgspec.MsgspecError, RecursionError) as error:
        raise _unreadable(run_id, n, error) from error


def _unreadable(run_id: str, n: int, error: Exception) -> PageUnreadable:
    return PageUnreadable(f"page {n} of run {run_id} cannot be read: {error}")


def _verified(
    run_id: str, pages: Pages, page_count: int, last_checksum: int
) -> Iterator[tuple[int, bytes]]:
    """Yield number and body of each page after verifying it. Raises ChainBroken."""
    checksum = chain_start(run_id) if page_count else last_checksum
    next_n = 1
    for n, body, stored_checksum in pages:
        if n != next_n:
            raise ChainBroken(f"page {next_n} of run {run_id} is missing")
        try:
            checksum = page_checksum(checksum, n, body)
            if checksum != stored_checksum:
                raise ChainBroken(f"page {n} of run {run_id} does not match its checksum")
        except TypeError as error:
            raise ChainBroken(f"page {n} of run {run_id} cannot be read: {error}") from error
        yield n, body
        next_n += 1
    found_count = next_n - 1
    if found_count != page_count:
        raise ChainBroken(f"run {run_id} has {found_count} of {page_count} pages")
    if checksum != last_checksum:
        raise ChainBroken(f"the last page of run {run_id} does not match the checksum in its row")
