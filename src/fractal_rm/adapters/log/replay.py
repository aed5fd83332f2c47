"""Makes updates of runs from the bodies of a log."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec

from fractal_rm.adapters.log import records, timed
from fractal_rm.adapters.log.batch import run_start
from fractal_rm.adapters.log.kept_values import keeping_in
from fractal_rm.adapters.log.run_updates import RunUpdate, RunUpdates
from fractal_rm.adapters.log.segments import PlacedBody
from fractal_rm.domain.facts import Accepted, AnyFact, Dead
from fractal_rm.domain.flow import Flow, KeepSettings
from fractal_rm.domain.journal_errors import JournalDamaged
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State


def _no_flow(_version: str) -> None:
    return None


def updates_in(
    bodies: Iterable[PlacedBody],
    run_of: Callable[[str], Run | None],
    ended_until: int = -1,
    flow_body: Callable[[str], bytes | None] = _no_flow,
) -> RunUpdates:
    """Make the updates of runs from bodies of the log.

    ``run_of`` returns a run with the facts that the history has. The history has all runs that
    ended before the position ``ended_until``, so these runs are left out. ``flow_body`` returns the
    JSON of a flow version that the history has: with it, the updates say which values are kept.
    Raises JournalDamaged if a body cannot be decoded.
    """
    replay = _Replay(run_of, flow_body)
    updates = replay.updates
    for body, end in bodies:
        replay.has_blobs = False
        try:
            decoded = records.decode(body)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise JournalDamaged(f"a frame of the log cannot be decoded: {error}") from error
        for record in decoded:
            replay.add(record)
            if end <= ended_until and isinstance(record, records.EndRecord):
                updates.open.pop(record.run_id, None)  # the history has this run already
        if end <= ended_until:
            _ = updates.take_ended()  # drop these updates: the history has them already
    return updates


class _Replay:
    """Collects the updates of runs from records, one record after the other."""

    def __init__(
        self,
        run_of: Callable[[str], Run | None],
        flow_body: Callable[[str], bytes | None],
    ) -> None:
        self.updates = RunUpdates()
        self._run_of = run_of
        self._flow_body = flow_body
        self._runs: dict[str, Run | None] = {}
        self.has_blobs = False

    def add(self, record: records.Record) -> None:
        """Add one record to the updates."""
        if isinstance(record, records.FlowRecord):
            self.updates.flows[record.version] = bytes(record.body)
        elif isinstance(record, records.DuplicateRecord):
            self.updates.add_duplicates(record.run_id, record.times)
        elif isinstance(record, records.RunRecord):
            self._begin(record)
        elif isinstance(record, records.BlobsRecord):
            self.has_blobs = True
        elif isinstance(record, records.AfterEndRecord):
            self.updates.add_after_end(record.run_id, record.fact)
        else:
            ahead_ms = record.ahead_ms if isinstance(record, records.EndRecord) else 0
            self._add_facts(self.updates.get_or_add(record.run_id), [record.fact], ahead_ms)

    def _begin(self, record: records.RunRecord) -> None:
        at_ms, first = timed.decode_any_release(record.facts[0])
        update = RunUpdate(record.run_id, state=State.ACCEPTED)
        self.updates.begin(update, run_start(
            first, record.flow, at_ms, record.key, record.digest, record.key_until_ms,
        ))  # fmt: skip
        flow = Flow(record.flow or "", keeping=self._keeping_of(first))
        self._runs[record.run_id] = Run(record.run_id, flow, at_ms)
        self._add_facts(update, record.facts, record.ahead_ms)

    def _add_facts(self, update: RunUpdate, facts: list[msgspec.Raw], ahead_ms: int) -> None:
        """Add facts, even if they are invalid for the run: such a run is set aside later."""
        update.facts += facts
        if self.has_blobs:
            update.refs += tuple(timed.refs_in(facts))
        run = self._run(update.run_id)
        if run is None:
            self._end_if_dead(update, facts[-1], ahead_ms)
            return
        settled_ms = None
        try:
            for each in map(timed.decode, facts):
                run.apply(each.fact)
                if run.state.final:
                    settled_ms = each.at_ms
        except Exception:  # noqa: BLE001 - the facts may be of any release
            self._runs[update.run_id] = None
            return
        update.copy_state_of(run)
        if settled_ms is not None:
            self.updates.end(update.run_id, settled_ms, ahead_ms)

    def _end_if_dead(self, update: RunUpdate, last: msgspec.Raw, ahead_ms: int) -> None:
        """End a run with invalid facts if its last fact sets the run aside as dead."""
        at_ms, dead = timed.decode_any_release(last)
        if isinstance(dead, Dead):
            flow_id = update.new.flow if update.new is not None else None
            run = Run(update.run_id, Flow(flow_id or ""), at_ms)
            run.apply(dead)
            update.copy_state_of(run)
            self.updates.end(update.run_id, at_ms, ahead_ms)

    def _keeping_of(self, first: AnyFact | None) -> KeepSettings | msgspec.UnsetType:
        if not isinstance(first, Accepted):
            return msgspec.UNSET
        body = self.updates.flows.get(first.version) or self._flow_body(first.version)
        return msgspec.UNSET if body is None else keeping_in(body)

    def _run(self, run_id: str) -> Run | None:
        if run_id not in self._runs:
            self._runs[run_id] = self._run_of(run_id)
        return self._runs[run_id]
