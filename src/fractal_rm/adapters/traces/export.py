"""Collects the facts of open runs, and exports the traces of runs that have ended.

A trace is exported if it is sampled, and always if its run did not succeed. The queue is bounded:
while the receiver does not answer, traces are dropped and counted, and runs are not delayed.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol, get_args

from fractal_rm.adapters.traces.spans import Span, TimedFacts, spans_of
from fractal_rm.config.model import Config
from fractal_rm.domain.facts import AnyFact, Dead, Settled
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import State
from fractal_rm.domain.trace import context_of
from fractal_rm.engine.ports import Telemetry

MAX_QUEUED = 1_024  # runs that wait for the export
MAX_OPEN = 20_000  # open runs whose facts are kept
BATCH_RUNS = 64
CLOSE_LIMIT_S = 2.0
_GOOD_STATES = frozenset({State.SUCCEEDED, State.HANDED_OFF})
EndedRun = tuple[Run, TimedFacts, int]


class Sender(Protocol):
    """Sends spans; `adapters.traces.otlp.OtlpSender` does it over OTLP."""

    def send(self, spans: list[Span]) -> bool:
        """Send spans, and return whether they arrived. Blocks."""
        ...

    def close(self) -> None:
        """End a `send` that waits."""
        ...


class Traces:
    """Port `Observer`. A thread builds the spans and sends them.

    ``exported`` and ``dropped`` are numbers of runs. ``call_soon`` calls a function on the event
    loop.
    """

    kinds: frozenset[type[AnyFact]] = frozenset(get_args(AnyFact))

    def __init__(
        self,
        sender: Sender,
        config: Callable[[], Config],
        telemetry: Telemetry,
        call_soon: Callable[..., object],
        sample: float,
    ) -> None:
        self._sender = sender
        self._config = config
        self._telemetry = telemetry
        self._call_soon = call_soon
        self._sample = sample
        self._open: dict[str, list[tuple[int, AnyFact]]] = {}
        self._ended: deque[EndedRun] = deque()
        self._changed = threading.Condition()
        self._closing = self._is_failing = False
        self.exported = self.dropped = 0
        self._thread = threading.Thread(target=self._export_all, name="traces", daemon=True)
        self._thread.start()

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:
        """Keep a fact until its run has ended. Then queue the run, if its trace is exported."""
        facts = self._open.get(run.id)
        if facts is None:
            if len(self._open) >= MAX_OPEN:
                return
            facts = self._open[run.id] = []
        facts.append((at_ms, fact))
        if isinstance(fact, (Settled, Dead)):
            del self._open[run.id]
            is_message = isinstance(fact, Dead) and bool(fact.source)  # it did not become a run
            if not is_message and self._is_exported(run):
                self._queue(run, facts, at_ms)

    async def close(self) -> None:
        """Export what is queued, for at most two seconds."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        await asyncio.to_thread(self._thread.join, CLOSE_LIMIT_S)
        self._sender.close()

    def _is_exported(self, run: Run) -> bool:
        return run.state not in _GOOD_STATES or context_of(run, self._sample).is_sampled

    def _queue(self, run: Run, facts: list[tuple[int, AnyFact]], ended_ms: int) -> None:
        with self._changed:
            if len(self._ended) >= MAX_QUEUED:
                self.dropped += 1
            else:
                self._ended.append((run, facts, ended_ms))
                self._changed.notify()

    # --- on the thread ----------------------------------------------------------------------------

    def _export_all(self) -> None:
        while (batch := self._next_batch()) is not None:
            self._export(batch)

    def _next_batch(self) -> list[EndedRun] | None:
        """Wait for ended runs. None: no more will come."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._closing)
            count = min(len(self._ended), BATCH_RUNS)
            return [self._ended.popleft() for _ in range(count)] or None

    def _export(self, batch: list[EndedRun]) -> None:
        error: Any = None
        try:
            config = self._config()
            spans = [span for ended in batch for span in spans_of(*ended, config, self._sample)]
            has_arrived = self._sender.send(spans)
        except Exception as fault:  # noqa: BLE001 - the top of the thread; runs are not at fault
            has_arrived, error = False, fault
        with self._changed:
            if has_arrived:
                self.exported += len(batch)
            else:
                self.dropped += len(batch)
        if has_arrived is self._is_failing:
            self._is_failing = not has_arrived
            self._report(error)

    def _report(self, error: Exception | None) -> None:
        """Log, on the event loop, that the export has begun to fail, or works again."""
        if not self._is_failing:
            self._call_soon(self._telemetry.event, "traces_exported_again")
            return
        reason = "the receiver did not take them" if error is None else repr(error)
        self._call_soon(_Problem(self._telemetry, reason, error))


class _Problem:
    """Logs that traces cannot be exported."""

    def __init__(self, telemetry: Telemetry, reason: str, error: Exception | None) -> None:
        self._telemetry = telemetry
        self._fields = {"reason": reason, "exc_info": error}

    def __call__(self) -> None:
        self._telemetry.problem("traces_not_exported", **self._fields)
