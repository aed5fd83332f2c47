"""The live events of this process: what is gathered, and who listens."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from weakref import WeakKeyDictionary

import msgspec

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.state import TROUBLE_STATES
from fractal_rm.engine.observers import Observers
from fractal_rm.engine.ports import Clock, Counting, Telemetry, WrittenFact
from fractal_rm.web.live.gathering import Gathered, Gathering
from fractal_rm.web.live.ring import Ring
from fractal_rm.web.live.topic import Topic

MAX_STREAMS = 16
GATHER_S = 1.0
# After the last stream has ended, changes are gathered for this time: a client that lost its
# connection comes back and misses nothing.
KEEP_S = 30.0
_OF_TROUBLE, _OF_RUN = (Topic.RUNS, Topic.FAILURES), (Topic.RUNS,)
_OF_FLOW = (Topic.FLOWS,)


class TooManyStreams(FractalError):
    """As many streams are open as there may be."""

    code = "too-many-streams"


class LiveEvents:
    """Gathers events while somebody listens. Otherwise this costs nothing.

    ``status`` says what the node does now. ``gather_s`` is the time between two messages.
    """

    def __init__(
        self,
        observers: Observers,
        counting: Counting,
        status: Callable[[], Awaitable[NodeStatus]],
        clock: Clock,
        telemetry: Telemetry,
        boot: str,
        gather_s: float = GATHER_S,
        keep_s: float = KEEP_S,
    ) -> None:
        self._observers, self._counting, self._status = observers, counting, status
        self._clock, self._telemetry = clock, telemetry
        self._intervals_s = gather_s, keep_s
        self.ring = Ring(boot)
        self.node_status: tuple[int, bytes] = (0, b"")  # the number of its event, and its JSON
        # Weak keys: a stream whose client went away before its first message is not counted.
        self._streams: WeakKeyDictionary[asyncio.Event, frozenset[Topic]] = WeakKeyDictionary()
        self._task: asyncio.Task[None] | None = None

    @property
    def open_streams(self) -> int:
        """How many streams are open."""
        return len(self._streams)

    def open(self, topics: frozenset[Topic]) -> asyncio.Event:
        """Count a stream. The event is set when there is news for it. Raises TooManyStreams."""
        if len(self._streams) >= MAX_STREAMS:
            raise TooManyStreams(
                f"{MAX_STREAMS} streams of live events are open: try again later, or ask for"
                " /v1/runs and /v1/status now and then"
            )
        news = asyncio.Event()
        self._streams[news] = topics
        if self._task is None:
            self._begin()
        return news

    def _begin(self) -> None:
        """Observe facts from now on."""
        gathering = Gathering()

        def count(facts: Sequence[WrittenFact]) -> None:
            try:
                gathering.count(facts)
            except Exception as error:  # noqa: BLE001 - the journal is not at fault
                self._counting.remove(count)
                _ = task.cancel()
                self._fail(error)

        def ended(_: object) -> None:  # called even if the task was cancelled before it began
            self._observers.remove(gathering)
            self._counting.remove(count)
            self.ring.clear()
            self._task = None

        self._observers.add(gathering)
        self._counting.add(count)
        task = self._task = asyncio.create_task(self._gather(gathering))
        task.add_done_callback(ended)

    def is_open(self, news: asyncio.Event) -> bool:
        """Whether a stream should go on."""
        return news in self._streams

    def close(self, news: asyncio.Event) -> None:
        """Count a stream no longer. May be called twice."""
        _ = self._streams.pop(news, None)

    def end(self, news: asyncio.Event) -> None:
        """End a stream, as its client has gone away."""
        self.close(news)
        news.set()

    def end_all(self) -> None:
        """End all streams at once. Clients may connect again, and miss nothing."""
        streams = list(self._streams)
        self._streams.clear()
        for news in streams:
            news.set()

    async def stop(self) -> None:
        """End all streams and gather no more."""
        self.end_all()
        if self._task is not None:
            _ = self._task.cancel()
            _ = await asyncio.wait([self._task])

    async def _gather(self, gathering: Gathering) -> None:
        """Gather until nobody has listened for a while."""
        gather_s, keep_s = self._intervals_s
        idle_s = 0.0
        try:
            while idle_s < keep_s:
                await asyncio.sleep(gather_s)
                idle_s = 0.0 if self._streams else idle_s + gather_s
                self._add(gathering.take())
                if any(Topic.NODE in topics for topics in self._streams.values()):
                    await self._add_status()
                for news in list(self._streams):
                    news.set()
        except Exception as error:  # noqa: BLE001 - the top of the task
            self._fail(error)

    def _fail(self, error: Exception) -> None:
        self._telemetry.problem("live_events_failed", error=repr(error), exc_info=error)
        self.end_all()

    def _add(self, gathered: Gathered) -> None:
        for change in gathered.run_changes():
            topics = _OF_TROUBLE if change.state in TROUBLE_STATES else _OF_RUN
            self.ring.add(topics, msgspec.json.encode(change))
        if gathered.hidden:
            self.ring.add(_OF_RUN, msgspec.json.encode({"hidden": gathered.hidden}))
        for change in gathered.flow_changes(self._clock.now_ms()):
            self.ring.add(_OF_FLOW, msgspec.json.encode(change))

    async def _add_status(self) -> None:
        """Keep the status if it has changed. Only the newest one is sent, so no ring has it."""
        status = await self._status()
        same_time = msgspec.structs.replace(status, now_ms=0)
        data = msgspec.json.encode(same_time)
        if data != self.node_status[1]:
            self.node_status = (self.node_status[0] + 1, data)
