"""The run queue with random events: no bound is exceeded, and every run ends once."""

from __future__ import annotations

import asyncio

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_stage import ManualClock, settle
from fractal_rm.adapters.memory import QuietTelemetry
from fractal_rm.domain.admission import Limits, Load
from fractal_rm.domain.facts import Accepted, Offered, Placed
from fractal_rm.domain.flow import Flow, QueueSettings
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.queue import RunQueue
from fractal_rm.engine.queue.permits import Permits
from fractal_rm.engine.timers import Timers
from fractal_rm.engine.workers import Workers

HOUR_MS = 3_600_000

queue_settings = st.builds(
    QueueSettings,
    limit=st.sampled_from([None, 1, 1, 2]),
    priority=st.integers(0, 9),
    stale_ms=st.none() | st.integers(1, 5_000).map(lambda hours: hours * HOUR_MS),
    latest=st.sampled_from([None, "@"]),
)
numbers = st.integers(0, 99)
events = st.one_of(
    st.tuples(st.just("new"), st.integers(0, 1), st.integers(0, 4)),
    st.tuples(st.just("new"), st.integers(0, 1), st.integers(0, 4)),
    st.tuples(
        st.sampled_from(["from journal", "begun", "offered", "last attempt"]),
        st.integers(0, 1),
        st.integers(0, 4),
    ),
    st.tuples(st.sampled_from(["ends", "deferred"]), numbers, numbers),
    st.tuples(st.just("time"), st.integers(0, 3_000), numbers),
)


class QueueUnderTest:
    """A queue with workers, and runs that end when the test applies an event."""

    def __init__(self, queueings: list[QueueSettings], slots: int) -> None:
        self.flows = [Flow(str(n), queueing=each) for n, each in enumerate(queueings)]
        self.clock = ManualClock()
        self.timers = Timers(self.clock)
        self.withdrawn: list[str] = []
        self.executed: list[str] = []
        self.joined: list[str] = []
        self.in_flight: dict[str, tuple[Run, asyncio.Future[float | None]]] = {}
        self.begun: dict[str, Run] = {}  # runs that have begun and not ended
        self.load = Load()
        permits = Permits(OpenRuns(), {})
        self.queue = RunQueue(self.load, Limits(in_flight=slots), permits, self.timers)
        self.queue.open()
        self.workers = Workers(QuietTelemetry())
        for work in (*(self.work() for _ in range(slots)), self.withdraw()):
            self.workers.start(work)

    async def work(self):
        while (run := self.queue.take() or await self.queue.wait()) is not None:
            self.queue.leave(run, await self.execute(run))

    async def withdraw(self):
        while True:
            run, _ = await self.queue.next_withdrawn()
            assert run.id not in self.begun
            self.withdrawn.append(run.id)
            self.queue.drop(run)

    async def execute(self, run):
        assert run.id not in self.in_flight
        limit = run.flow.queueing.limit
        if run.placement is not HERE and limit is not None:
            assert [other.flow for other in self.begun.values()].count(run.flow) < limit
        run.apply(Placed(None, "here"))
        end = asyncio.get_running_loop().create_future()
        self.in_flight[run.id], self.begun[run.id] = (run, end), run
        return await end

    def apply(self, kind: str, number: int, other: int) -> None:
        """Apply an event: a run joins, ends or is deferred, or time passes.

        ``number`` selects the flow or the run in flight, or is a number of hours. ``other`` is the
        payload of a new run.
        """
        if kind == "time":
            self.clock.ms += number * HOUR_MS
            self.timers.fire_due()
        elif kind not in ("ends", "deferred"):
            self._join(kind, self.flows[number], other)
        elif self.in_flight:
            run_id = list(self.in_flight)[number % len(self.in_flight)]
            _, end = self.in_flight.pop(run_id)
            if kind == "ends":
                del self.begun[run_id]
                self.executed.append(run_id)
            end.set_result(None if kind == "ends" else 0.0)

    def _join(self, kind: str, flow: Flow, content: int) -> None:
        run = Run(f"run{len(self.joined)}", flow, self.clock.ms)
        run.apply(Accepted(flow.id, "", msgspec.Raw(b"%d" % content), "mqtt"))
        self.joined.append(run.id)
        if kind == "new":
            self.queue.capacity.reserve(run.payload_bytes)
            self.queue.join(run)
            return
        if kind == "begun" or (kind == "last attempt" and content == 1):
            run.apply(Placed(None, "here"))
            self.begun[run.id] = run
        if kind == "offered" or (kind == "last attempt" and content == 2):
            run.apply(Offered("2", 1))
        self.queue.readmit(run, last_attempt=kind == "last attempt")

    def check(self) -> None:
        """Assert that the counts of waiting runs and of runs in flight are correct."""
        assert self.load.in_flight == len(self.in_flight) <= self.queue.slots.limits.in_flight
        waiting = len(self.joined) - len(self.withdrawn) - len(self.executed) - len(self.in_flight)
        assert self.load.waiting == waiting


async def play(queue: QueueUnderTest, chosen_events: list[tuple[str, int, int]]) -> None:
    """Apply events, and then end the remaining runs."""
    for event in chosen_events:
        queue.apply(*event)
        await settle(20)
        queue.check()
    while queue.load.waiting or queue.in_flight:
        assert queue.in_flight  # otherwise waiting runs would never begin
        queue.apply("ends", 0, 0)
        await settle(20)
        queue.check()
    assert sorted(queue.joined) == sorted(queue.executed + queue.withdrawn)
    assert queue.load.payload_bytes == 0
    await queue.workers.cancel()


@settings(max_examples=200)
@given(
    st.lists(queue_settings, min_size=2, max_size=2),
    st.integers(2, 6),
    st.lists(events, max_size=30),
)
def test_no_bound_is_exceeded_and_every_run_ends_once(queueings, slots, chosen_events):
    async def run():
        await play(QueueUnderTest(queueings, slots), chosen_events)

    asyncio.run(run())
