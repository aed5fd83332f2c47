"""Makes new runs: for triggers, for hand-offs, for RUN steps, and for runs that are repeated."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import msgspec
from msgspec import UNSET

from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import Accepted, AnyFact, Placed, dead_by_fault, none_if_unset
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.run import Run
from fractal_rm.domain.steady import ClockReading
from fractal_rm.domain.trace import header_for
from fractal_rm.engine.definitions import Definitions
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.open_runs import origin_of
from fractal_rm.engine.pending import PendingRun
from fractal_rm.engine.ports import ExistingRun, NewRun
from fractal_rm.engine.queue import RECHECK_S, RunQueue
from fractal_rm.engine.recorder import Recorder


class NewRuns:
    """Makes runs, gives them to the journal, and queues them when they are durable."""

    def __init__(
        self,
        dependencies: Dependencies,
        recorder: Recorder,
        queue: RunQueue,
        definitions: Definitions,
    ) -> None:
        self._dependencies = dependencies
        self._recorder = recorder
        self._queue = queue
        self._definitions = definitions
        self._ids = dependencies.ids

    def make(
        self,
        run_id: str,
        flow: Flow,
        facts: tuple[AnyFact, ...],
        key: str | None,
        digest: str,
        now: ClockReading,
    ) -> tuple[Run, NewRun]:
        """Make a run with its first facts, and its entry for the journal."""
        run = Run(run_id, flow, now.wall_ms)
        for fact in facts:
            run.apply(fact)
        until_ms = now.retention_ms + self._dependencies.config.bounds.dedup_window_s * 1000
        entry = NewRun(
            run_id, flow, now.wall_ms, facts, run.state, run.reason, key, digest, until_ms,
            now.retention_ms,
        )  # fmt: skip
        return run, entry

    def enqueue(self, new: PendingRun) -> None:
        """Queue a durable run. If the run cannot be queued, set it aside."""
        run = new.run
        if not new.is_durable():
            self._queue.capacity.release(run.payload_bytes)
            return
        self._recorder.add(run, new.entry)
        try:
            self._queue.join(run)
        except Exception as error:  # noqa: BLE001 - other triggers of this call must not fail
            dead = dead_by_fault(error)
            self._dependencies.telemetry.problem(
                "run_set_aside", run=run.id, reason=dead.reason, exc_info=error
            )
            _ = self._recorder.settle(run, dead)  # no caller waits for this run yet
            self._queue.capacity.release(run.payload_bytes)

    # --- repeated runs --------------------------------------------------------------------------

    async def repeat(
        self, flow: Flow, accepted: Accepted, progress: Sequence[AnyFact], key: str, digest: str
    ) -> Run | ExistingRun:
        """Make a durable run that repeats another run, and queue it. Returns the run with ``key``.

        ``accepted`` has neither the node nor the version of the flow yet. With ``progress``, facts
        of finished steps, the run is placed on this node. Raises Busy, JournalBlocked.
        """
        now = self._dependencies.clock.read()
        node = self._dependencies.node_id
        first = msgspec.structs.replace(
            accepted,
            version=self._definitions.version_of(flow),
            ahead_ms=now.ahead_ms or UNSET,
            node=node,
        )
        facts: tuple[AnyFact, ...] = (first,)
        if progress:
            why = f"an operator has repeated run {none_if_unset(accepted.replays)} on this node"
            facts += (Placed(node, why, cause=Cause.OPERATOR), *progress)
        run, entry = self.make(self._ids.next(now.id_ms), flow, facts, key, digest, now)
        self._queue.capacity.reserve(run.payload_bytes)
        new = PendingRun(run, entry, self._recorder.accept(entry))
        try:
            return await new.written or run
        finally:  # a durable run is queued, even if nobody waits for the answer any more
            self.enqueue(new)

    # --- runs of RUN steps ----------------------------------------------------------------------

    async def begin_child(
        self, parent: Run, number: int, flow: Flow, payload: msgspec.Raw, budget_ms: int | None
    ) -> Run | ExistingRun:
        """Make a durable run for a RUN step. The run is not queued: its parent executes it.

        Returns the existing run if the step began a run in an earlier process. Waits while the
        journal is blocked.
        """
        while True:
            new = self._new_child(parent, number, flow, payload, budget_ms)
            try:
                prior = await new.written
            except JournalBlocked:
                await asyncio.sleep(RECHECK_S)
                continue
            finally:  # also if the parent was cancelled while it waited
                if new.is_durable():
                    self._recorder.add(new.run, new.entry)
            return new.run if prior is None else prior

    def _new_child(
        self, parent: Run, number: int, flow: Flow, payload: msgspec.Raw, budget_ms: int | None
    ) -> PendingRun:
        now = self._dependencies.clock.read()
        origin = origin_of(parent, number)
        key = f"\0run:{origin}"  # ids from senders cannot begin with NUL
        accepted = Accepted(
            flow=flow.id,
            version=self._definitions.version_of(flow),
            payload=payload,
            source="flow",
            placed=True,
            key=key,
            budget_ms=UNSET if budget_ms is None else budget_ms,
            origin=origin,
            traceparent=header_for(parent, self._dependencies.trace_sample, str(number)) or UNSET,
            ahead_ms=now.ahead_ms or UNSET,
            node=self._dependencies.node_id,
        )
        why = f"the run is a child of run {parent.id}"
        placed = Placed(self._dependencies.node_id, why, cause=Cause.PARENT)
        run_id = self._ids.next(now.id_ms)
        run, entry = self.make(run_id, flow, (accepted, placed), key, "", now)
        return PendingRun(run, entry, self._recorder.accept(entry))
