"""Whether every open run is carried: one that goes nowhere is a fault of this program.

An open run stands in line, is in flight, waits outside for another turn, is parked, or belongs to
an open run that has begun it. One that is none of these ends at no time: it is found here, and a
restart takes it up again, as it is in the journal.
"""

from __future__ import annotations

from fractal_rm.domain.state import State
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import Check, Telemetry
from fractal_rm.engine.queue import RunQueue

SHOWN = 3


class Inventory:
    """Compares the open runs with what the waiting room has, each time that it is told to look."""

    def __init__(self, runs: OpenRuns, queue: RunQueue, telemetry: Telemetry) -> None:
        self._runs = runs
        self._queue = queue
        self._telemetry = telemetry
        self._seen: frozenset[str] = frozenset()
        self.uncarried: frozenset[str] = frozenset()

    def look(self) -> None:
        """Take stock. A run counts that nobody carried at the look before, too.

        It takes a moment for each open run, so it is done every few seconds.
        """
        before, self._seen = self._seen, self._not_carried()
        found = before & self._seen
        for run_id in sorted(found - self.uncarried):
            self._telemetry.problem("run_not_carried", run=run_id, cure="restart the node")
        self.uncarried = found

    def _not_carried(self) -> frozenset[str]:
        carried = self._queue.ids()
        return frozenset(
            run.id
            for run in self._runs
            if run.id not in carried
            and run.state is not State.PARKED
            and self._runs.parent(run) is None
        )

    def check(self) -> Check:
        """What was found, for `readyz`."""
        if not self.uncarried:
            return Check("runs", ok=True, text="every open run is carried")
        some = ", ".join(sorted(self.uncarried)[:SHOWN])
        more = ", …" if len(self.uncarried) > SHOWN else ""
        text = f"{len(self.uncarried)} are carried by nobody until a restart: {some}{more}"
        return Check("runs", ok=False, text=text)
