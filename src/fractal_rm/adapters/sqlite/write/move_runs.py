"""Export open runs of a history for another journal, and delete them in this history."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.timed import Ref, refs_in
from fractal_rm.adapters.sqlite.format import statements
from fractal_rm.adapters.sqlite.format.page_chain import ChainBroken
from fractal_rm.adapters.sqlite.format.row_sums import checksum_matches
from fractal_rm.adapters.sqlite.format.run_row import RunRow
from fractal_rm.adapters.sqlite.write.purge import drop_blob_rows
from fractal_rm.domain.facts import Accepted

KEY = "SELECT * FROM keys WHERE run = ?"
NUMBERS = "SELECT no FROM runs WHERE id IN (SELECT value FROM json_each(?)) AND settled_ms IS NULL"
DROP_KEYS = "DELETE FROM keys WHERE run IN (SELECT value FROM json_each(?))"


class _First(msgspec.Struct, array_like=True):
    at_ms: int
    fact: Accepted


_facts = msgspec.json.Decoder(list[msgspec.Raw]).decode
_decode_first = msgspec.json.Decoder(_First).decode


def encode_open_runs(db: sqlite3.Connection, run_ids: Sequence[str]) -> bytes:
    """Return open runs as a body of log records for the other journal. Facts are copied unchanged.

    Raises sqlite3.Error. Raises ChainBroken if a row does not match its checksum: the copy of such
    a row would get a valid checksum.
    """
    body: list[object] = []
    refs: list[Ref] = []
    versions: set[str] = set()
    for run_id in run_ids:
        row = RunRow._make(_verified(db.execute(statements.RUN_BY_ID, (run_id,)).fetchone()))
        key_row = db.execute(KEY, (row.no,)).fetchone()
        key, _, digest, until_ms, _ = _verified(key_row) if key_row else (None, row.no, "", 0, 0)
        facts = list(_facts_in_pages(db, row.no))
        first = _decode_first(facts[0]).fact
        refs += (ref for ref in refs_in(facts) if ref.name is not None)
        if first.version not in versions:
            versions.add(first.version)
            (flow,) = db.execute(statements.FLOW_BODY, (first.version,)).fetchone()
            body.append(("flow", first.version, msgspec.Raw(flow)))
        body.append(("run", run_id, first.flow, key, digest, until_ms, facts))
        if row.duplicates:
            body.append(("again", run_id, row.duplicates))
    if refs:
        body.insert(0, ("blobs", refs))
    return records.encode(body)


def delete_runs(db: sqlite3.Connection, run_ids: Sequence[str]) -> list[str]:
    """Delete open runs with their facts and keys, and subtract their number from ``accepted``.

    Call this within a transaction. Returns the names of the blobs to delete after the commit.
    ``faults`` and ``spans`` do not change, as they describe only ended runs. Raises sqlite3.Error.
    """
    numbers = [no for (no,) in db.execute(NUMBERS, (json.dumps(list(run_ids)),))]
    json_numbers = json.dumps(numbers)
    blobs = drop_blob_rows(db, numbers)
    for statement in (DROP_KEYS, statements.DROP_PAGES, statements.DROP_RUNS):
        db.execute(statement, (json_numbers,))
    db.execute(statements.ADD_TO_META, {"name": "accepted", "amount": -len(numbers)})
    return blobs


def _verified(row: tuple[Any, ...]) -> tuple[Any, ...]:
    if not checksum_matches(row):
        raise ChainBroken(f"has a row that does not match its checksum ({row[0]!r})")
    return row


def _facts_in_pages(db: sqlite3.Connection, no: int) -> Iterator[msgspec.Raw]:
    for _, body, _ in db.execute(statements.READ_PAGES_OF_RUN, (no,)):
        yield from _facts(body)
