"""The order of waiting runs: one line for each flow, and the rules PRIORITY, STALE and LATEST."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial

from msgspec import UNSET

from fractal_rm.domain.admission import expired_as_stale, latest_key, superseded_by
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import QueueSettings
from fractal_rm.domain.run import Run
from fractal_rm.engine.queue.lines import Lines
from fractal_rm.engine.timers import Timer, Timers

Withdraw = Callable[[Run, Settled], None]


class RunOrder:
    """The lines of waiting runs, and a timer for each run that can become stale.

    If a run must not begin any more, it is removed from its line. Then ``withdraw`` is called with
    the run, and how it ends.
    """

    def __init__(self, timers: Timers, withdraw: Withdraw) -> None:
        self._timers = timers
        self._withdraw = withdraw
        self._lines = Lines()
        self._stale: dict[str, Timer] = {}  # the STALE timers, by run id

    def add(
        self, run: Run, max_values: int, *, last_attempt: bool = False, recovered: bool = False
    ) -> None:
        """Put a run at the end of its line, by the rules of its flow.

        ``last_attempt``: the run is on its last attempt. ``recovered``: the run comes from the
        journal, so a waiting run with the same LATEST key may be newer. ``max_values``:
        LATEST is not applied to a payload with more values.
        """
        queueing = run.flow.queueing
        if queueing is UNSET or run.has_begun or run.cancel is not None:
            self._lines.add(run, last_attempt=last_attempt)
        else:
            self._add_by_rules(
                run, queueing, max_values, last_attempt=last_attempt, recovered=recovered
            )

    def _add_by_rules(
        self,
        run: Run,
        queueing: QueueSettings,
        max_values: int,
        *,
        last_attempt: bool,
        recovered: bool,
    ) -> None:
        """Apply LATEST (replace an older run with the same key) and STALE (limit the wait)."""
        label = latest_key(run.flow.id, queueing.latest, run.accepted.payload, max_values) or run.id
        other = self._lines.labelled(label)
        if other is not None:
            if recovered and run.steady_ms < other.steady_ms:
                self._withdraw(run, superseded_by(other.id))
                return
            _ = self._cancel_timer(other)
            self._withdraw(other, superseded_by(run.id))
        self._lines.add_labelled(label, run, last_attempt=last_attempt)
        if queueing.stale_ms is not None:
            left_ms = queueing.stale_ms
            if recovered:
                left_ms -= max(0, self._timers.now_ms() - run.steady_ms)
            due = partial(self._expire, label, run, queueing.stale_ms)
            self._stale[run.id] = self._timers.set(left_ms, due)

    def next(self, may_begin: Callable[[Run, bool], bool]) -> tuple[Run, bool] | None:
        """Remove and return the next run, with whether it is on its last attempt. Or None.

        ``may_begin`` is called with the first run of a line, and whether it is on its last attempt.
        """
        while (candidate := self._lines.take(may_begin)) is not None:
            run, _ = candidate
            queueing = run.flow.queueing
            if queueing is UNSET or not self._cancel_timer(run):
                return candidate
            # The run is stale: its timer was due, but has not been called yet.
            self._withdraw(run, expired_as_stale(queueing.stale_ms or 0))
        return None

    def withdraw(self, run: Run) -> bool:
        """Remove a waiting run from its line. Returns whether it waited."""
        if not self._lines.withdraw(run):
            return False
        _ = self._cancel_timer(run)
        return True

    def ids(self) -> Iterator[str]:
        """The ids of all waiting runs."""
        return self._lines.ids()

    def waiting(self) -> Counter[str]:
        """How many runs of each flow wait to begin."""
        return self._lines.waiting()

    def oldest_waiting_ms(self) -> int | None:
        """The wall time when the first of the waiting runs was accepted. None: no run waits."""
        return self._lines.oldest_waiting_ms()

    def close(self) -> None:
        """Cancel all timers."""
        for timer in self._stale.values():
            timer.cancel()
        self._stale.clear()

    def _expire(self, label: str, run: Run, stale_ms: int) -> None:
        del self._stale[run.id]
        self._lines.remove(label)
        self._withdraw(run, expired_as_stale(stale_ms))

    def _cancel_timer(self, run: Run) -> bool:
        """Cancel the STALE timer of a run. Returns whether the timer was already due."""
        timer = self._stale.pop(run.id, None)
        if timer is None:
            return False
        timer.cancel()
        return timer.at_ms <= self._timers.now_ms()
