"""Open runs of a history, on their way to another journal."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.timed import Ref, refs_in
from fractal_rm.adapters.sqlite import statements
from fractal_rm.adapters.sqlite.chain import ChainBroken
from fractal_rm.adapters.sqlite.retention import drop_blobs
from fractal_rm.adapters.sqlite.sums import holds
from fractal_rm.domain.facts import Accepted

RUN = f"SELECT {statements.RUN}, sum FROM runs WHERE id = ?"  # noqa: S608 - of our own words
KEY = "SELECT * FROM keys WHERE run = ?"
NUMBERS = "SELECT no FROM runs WHERE id IN (SELECT value FROM json_each(?)) AND settled_ms IS NULL"
DROP_KEYS = "DELETE FROM keys WHERE run IN (SELECT value FROM json_each(?))"


class _First(msgspec.Struct, array_like=True):
    at_ms: int
    fact: Accepted


_facts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_first = msgspec.json.Decoder(_First).decode


def body_of(db: sqlite3.Connection, run_ids: Sequence[str]) -> bytes:
    """What the log of the other journal says of open runs; facts are the bytes that stand there.

    Raises ChainBroken where a row does not hold, which would get a checksum that does;
    sqlite3.Error.
    """
    said: list[object] = []
    refs: list[Ref] = []
    versions: set[str] = set()
    for run_id in run_ids:
        no, *_, again, _ = _whole(db.execute(RUN, (run_id,)).fetchone())
        key = db.execute(KEY, (no,)).fetchone()
        key, _, digest, until_ms, _ = _whole(key) if key else (None, no, "", 0, 0)
        facts = list(_pages(db, no))
        first = _decode_first(facts[0]).fact
        refs += (ref for ref in refs_in(facts) if ref.name is not None)
        if first.version not in versions:
            versions.add(first.version)
            (flow,) = db.execute(statements.FLOW_BODY, (first.version,)).fetchone()
            said.append(("flow", first.version, msgspec.Raw(flow)))
        said.append(("run", run_id, first.flow, key, digest, until_ms, facts))
        if again:
            said.append(("again", run_id, again))
    if refs:
        said.insert(0, ("blobs", refs))
    return records.encode(said)


def take_out(db: sqlite3.Connection, run_ids: Sequence[str]) -> list[str]:
    """Drop open runs with their facts and keys, within a transaction, as if they had never come.

    Returns the names of their blobs, to be deleted when that is durable. What is kept beside the
    runs (`faults`, `spans`) is of those that have an end. Raises sqlite3.Error.
    """
    numbers = [no for (no,) in db.execute(NUMBERS, (json.dumps(list(run_ids)),))]
    chosen = json.dumps(numbers)
    blobs = drop_blobs(db, numbers)
    for statement in (DROP_KEYS, statements.DROP_PAGES, statements.DROP_RUNS):
        db.execute(statement, (chosen,))
    db.execute(statements.COUNT, {"name": "accepted", "more": -len(numbers)})
    return blobs


def _whole(row: tuple[Any, ...]) -> tuple[Any, ...]:
    if not holds(row):
        raise ChainBroken(f"has a row that does not match its checksum ({row[0]!r})")
    return row


def _pages(db: sqlite3.Connection, no: int) -> Iterator[msgspec.Raw]:
    for _, body, _ in db.execute(statements.PAGES, (no,)):
        yield from _facts(body)
