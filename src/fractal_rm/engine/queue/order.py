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


class Order:
    """Lines of runs, and the timers of those that become stale.

    ``withdraw`` is called with a run that is not to begin any more, and how it ends. It is no
    longer in a line then.
    """

    def __init__(self, alarms: Timers, withdraw: Withdraw) -> None:
        self._alarms = alarms
        self._withdraw = withdraw
        self._lines = Lines()
        self._stale: dict[str, Timer] = {}  # by run

    def add(self, run: Run, max_values: int, *, alone: bool = False, held: bool = False) -> None:
        """Put a run at the end of its line, by the rules of its flow.

        ``alone``: it is on its last attempt. ``held``: the journal held it at start, so that it may
        be older than a run about the same that is in line already. ``max_values``: LATEST picks
        nothing from a payload with more.
        """
        queueing = run.flow.queueing
        if queueing is UNSET or run.has_begun:
            self._lines.add(run, alone=alone)
        else:
            self._add_by_rules(run, queueing, max_values, alone=alone, held=held)

    def _add_by_rules(
        self, run: Run, queueing: QueueSettings, max_values: int, *, alone: bool, held: bool
    ) -> None:
        """LATEST: it replaces an older run about the same. STALE: it waits for so long at most."""
        label = latest_key(run.flow.id, queueing.latest, run.payload, max_values) or run.id
        other = self._lines.labelled(label)
        if other is not None:
            if held and run.steady_ms < other.steady_ms:
                self._withdraw(run, superseded_by(other.id))
                return
            _ = self._cancel_timer(other)
            self._withdraw(other, superseded_by(run.id))
        self._lines.add_labelled(label, run, alone=alone)
        if queueing.stale_ms is not None:
            left_ms = queueing.stale_ms
            if held:
                left_ms -= max(0, self._alarms.now_ms() - run.steady_ms)
            due = partial(self._expire, label, run, queueing.stale_ms)
            self._stale[run.id] = self._alarms.set(left_ms, due)

    def next(self, may_begin: Callable[[Run, bool], bool]) -> tuple[Run, bool] | None:
        """Take the run whose turn it is, with whether it goes alone. None: none may begin now.

        ``may_begin`` is asked about the first run of a line, and whether it goes alone.
        """
        while (taken := self._lines.take(may_begin)) is not None:
            queueing = taken[0].flow.queueing
            if queueing is UNSET or not self._cancel_timer(taken[0]):
                return taken
            self._withdraw(taken[0], expired_as_stale(queueing.stale_ms or 0))  # its timer was late
        return None

    def ids(self) -> Iterator[str]:
        """The ids of all waiting runs."""
        return self._lines.ids()

    def waiting(self) -> Counter[str]:
        """How many runs of each flow wait to begin."""
        return self._lines.waiting()

    def close(self) -> None:
        """Cancel all timers."""
        for alarm in self._stale.values():
            alarm.cancel()
        self._stale.clear()

    def _expire(self, label: str, run: Run, stale_ms: int) -> None:
        del self._stale[run.id]
        self._lines.remove(label)
        self._withdraw(run, expired_as_stale(stale_ms))

    def _cancel_timer(self, run: Run) -> bool:
        """Returns whether its time had ended already."""
        alarm = self._stale.pop(run.id, None)
        if alarm is None:
            return False
        alarm.cancel()
        return alarm.at_ms <= self._alarms.now_ms()
