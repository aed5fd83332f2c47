"""Batches: records that are written in one frame, and the updates that they make to the history."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from msgspec import UNSET

from fractal_rm.adapters.log import records
from fractal_rm.adapters.log.run_updates import KeyQuery, RunStart, RunUpdate, RunUpdates
from fractal_rm.adapters.log.timed import MAX_INLINE_BYTES, Blob, Ref, extract_blob
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    Dead,
    Discarded,
    Settled,
    none_if_unset,
)
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.run import Run, parent_id_of
from fractal_rm.engine.ports import ExistingRun, NewRun, WrittenFact

RetentionClock = Callable[[], int]  # reads the retention clock, milliseconds
# Facts that are not written as records of the kind "fact".
_SPECIAL_FACTS = frozenset({Settled, Dead, Discarded})
# Smaller differences between the wall clock and the retention clock are stored as 0.
CLOCK_TOLERANCE_MS = 60_000


class FactBatch:
    """Facts of open runs, and facts after their end; ``records`` are their records for the log."""

    RECORD_PREFIX = b',["fact","'  # most of the encoded records begin with this

    def __init__(self, facts: Sequence[WrittenFact], retention_ms: RetentionClock) -> None:
        self._facts: Sequence[tuple[Run, Any]] = facts
        self._after_end: list[tuple[str, Any]] = []  # run id, timed fact
        self._refs: list[tuple[str, Ref]] = []
        self._ends: list[tuple[str, int, int]] = []  # run id, wall time, `_ahead_of` it
        self.records: list[Any] = []
        add_record = self.records.append
        now_retention_ms: int | None = None  # the clock is read at most once for all facts
        for run, timed in facts:
            at_ms, fact = timed
            if type(fact) not in _SPECIAL_FACTS:
                add_record(("fact", run.id, timed))
                continue
            if type(fact) is Discarded:
                add_record(("after-end", run.id, timed))
                self._after_end.append((run.id, timed))
                continue
            if now_retention_ms is None:
                now_retention_ms = retention_ms()
            ahead_ms = _ahead_of(at_ms, now_retention_ms)
            add_record(("end", run.id, timed, ahead_ms))
            self._ends.append((run.id, at_ms, ahead_ms))

    def extract_blobs(self, new_name: Callable[[], str]) -> list[Blob]:
        """Replace large values by references to blobs; returns the blobs."""
        blobs: list[Blob] = []
        facts = list(self._facts)
        for index, (run, (at_ms, fact)) in enumerate(self._facts):
            extracted = extract_blob(fact, new_name)
            if extracted is not None:
                small_fact, blob = extracted
                timed = (at_ms, small_fact, blob.ref)
                facts[index] = (run, timed)
                kind, run_id, _, *last_fields = self.records[index]
                self.records[index] = (kind, run_id, timed, *last_fields)
                self._refs.append((run_id, blob.ref))
                blobs.append(blob)
        self._facts = facts
        return blobs

    def add_to(self, updates: RunUpdates) -> None:
        """Add the facts to the updates for the history. Call this after they are in the log."""
        updates.add_facts(self._facts_of_open_runs() if self._after_end else self._facts)
        for run_id, ref in self._refs:
            updates.get_or_add(run_id).refs += (ref,)
        for end in self._ends:
            updates.end(*end)
        for run_id, timed in self._after_end:
            updates.add_after_end(run_id, timed)

    def _facts_of_open_runs(self) -> list[tuple[Run, Any]]:
        return [each for each in self._facts if type(each[1][1]) is not Discarded]


class EntryBatch:
    """New runs, and duplicates of triggers."""

    RECORD_PREFIX = b',["run","'

    def __init__(self, retention_ms: RetentionClock) -> None:
        self._retention_ms = retention_ms
        self._begun = RunUpdates()
        self._duplicates: list[str] = []  # the ids of runs whose trigger arrived again
        self.records: list[Any] = []

    def existing_for(self, query: KeyQuery) -> ExistingRun | None:
        """The run of this batch with the key or the id of a query; None: there is no such run."""
        return self._begun.existing_for(query)

    def add_flow(self, flow: Flow) -> None:
        """Add a flow, before the first run that uses it."""
        version, body = flow_version(flow), records.encode(flow)
        self._begun.flows[version] = body
        self.records.append(("flow", version, msgspec.Raw(body)))

    def begin(self, entry: NewRun) -> None:
        """Add a new run, or a dead letter."""
        at_ms, first = entry.at_ms, entry.facts[0]
        facts = [(at_ms, fact) for fact in entry.facts]
        settled_ms = at_ms if entry.state.final else None
        ahead_ms = 0 if settled_ms is None else _ahead_of(settled_ms, self._retention_ms())
        flow = entry.flow.id if entry.flow else None
        update = RunUpdate(
            entry.run_id, facts, entry.state, entry.reason, None, settled_ms, ahead_ms
        )
        if settled_ms is not None:
            update.flow, update.cause = flow, _cause_text(entry.facts[-1])
        self._begun.begin(
            update,
            run_start(first, flow, at_ms, entry.key, entry.digest, entry.key_until_ms),
        )
        self.records.append(
            ("run", entry.run_id, flow, entry.key, entry.digest, entry.key_until_ms, facts,
             ahead_ms)
        )  # fmt: skip

    def extract_blobs(self, new_name: Callable[[], str]) -> list[Blob]:
        """Replace large values by references to blobs; returns the blobs.

        The elements of `records` share the lists of facts, so the values are also replaced there.
        """
        blobs: list[Blob] = []
        for update in self._begun:
            for index, (at_ms, fact) in enumerate(update.facts):
                extracted = extract_blob(fact, new_name)
                if extracted is not None:
                    small_fact, blob = extracted
                    update.facts[index] = (at_ms, small_fact, blob.ref)
                    update.refs += (blob.ref,)
                    blobs.append(blob)
        return blobs

    def add_duplicate(self, run_id: str) -> None:
        """Count a duplicate of the trigger of a run."""
        self._duplicates.append(run_id)
        self.records.append(("again", run_id))

    def add_to(self, updates: RunUpdates) -> None:
        """Add the batch to the updates for the history. Call this after it is in the log."""
        updates.add_new(self._begun)
        for run_id in self._duplicates:
            updates.add_duplicates(run_id)


def encoded(batch: EntryBatch | FactBatch, new_name: Callable[[], str]) -> tuple[bytes, list[Blob]]:
    """Encode a batch. Returns the body of a frame, and the blobs that the body refers to."""
    body = records.encode(batch.records)
    blobs = batch.extract_blobs(new_name) if may_have_large_value(body, batch.RECORD_PREFIX) else []
    if blobs:
        refs = [blob.ref for blob in blobs]
        body = records.encode([("blobs", refs), *batch.records])
    return body, blobs


def may_have_large_value(body: bytes, record_prefix: bytes) -> bool:
    """Whether a body has a part over MAX_INLINE_BYTES without a record prefix.

    Such a part may be a large value. If there is none, the facts need not be checked one by one,
    even if the body is large because it has many facts. A large value that contains record prefixes
    may be missed. It is then stored in the body.
    """
    at = 0
    while len(body) - at > MAX_INLINE_BYTES:
        at = body.rfind(record_prefix, at + 1, at + MAX_INLINE_BYTES)
        if at < 0:
            return True
    return False


def run_start(
    first: AnyFact | None, flow: str | None, at_ms: int, key: str | None, digest: str,
    key_until_ms: int,
) -> RunStart:  # fmt: skip
    """The start of a run, from its first fact. ``first`` is None if it cannot be decoded."""
    version, source, parent, replays, actor = "", "", None, None, None
    if isinstance(first, Accepted):
        version, source = first.version, first.source
        if first.origin is not UNSET:
            parent = parent_id_of(first)
        if first.replays is not UNSET:
            replays, actor = first.replays, none_if_unset(first.actor)
    elif isinstance(first, Dead):
        source = first.source
    return RunStart(flow, version, source, at_ms, key, digest, key_until_ms, parent, replays, actor)


def _cause_text(end: AnyFact) -> str | None:
    """The cause in the last fact of a run."""
    cause = getattr(end, "cause", UNSET)
    return None if cause is UNSET else cause.text


def _ahead_of(wall_ms: int, retention_ms: int) -> int:
    """The retention clock minus the wall clock, or 0 if they differ by less than a minute.

    The clocks usually agree, and SQLite stores 0 without using a byte.
    """
    ahead_ms = retention_ms - wall_ms
    return ahead_ms if abs(ahead_ms) >= CLOCK_TOLERANCE_MS else 0
