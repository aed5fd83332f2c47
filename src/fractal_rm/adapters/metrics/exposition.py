"""The numbers of a node in the text format of Prometheus, version 0.0.4.

The text may have thousands of lines. It is made in parts: other tasks have a turn after each part,
so the event loop is never blocked for longer than about a millisecond.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from functools import partial

from fractal_rm.adapters.metrics import families
from fractal_rm.adapters.metrics.counts import OTHER, Counts
from fractal_rm.adapters.metrics.families import Family
from fractal_rm.adapters.metrics.histogram import BOUNDS, Histogram
from fractal_rm.adapters.metrics.process import ProcessNumbers, read_process
from fractal_rm.domain.cause import Cause
from fractal_rm.domain.facts import AnyFact, Dead
from fractal_rm.domain.node_status import NodeStatus
from fractal_rm.domain.run import Run
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.ports import WrittenFact

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
LINES_PER_TURN = 500
REUSE_S = 0.2  # scrapes that come together get the same text
_CIRCUIT_STATES = ("closed", "open", "half-open")
_OPEN_STATES = ("accepted", "running", "offered", "parked")


class Metrics:
    """Counts from the first call of `exposition` or `start` on. A process has one instance."""

    kinds: frozenset[type[AnyFact]] = frozenset({Dead})  # also the port `Observer`

    def __init__(
        self, dependencies: Dependencies, status: Callable[[], Awaitable[NodeStatus]]
    ) -> None:
        self._dependencies = dependencies
        self._status = status
        clock = dependencies.clock
        self._counts = Counts(lambda: dependencies.config, lambda: clock.read().ahead_ms)
        self._is_counting = False
        self._rendering = asyncio.Lock()
        self._last: tuple[float, bytes] | None = None  # when it was made, and the text

    def start(self) -> None:
        """Begin to count, if that was not done before."""
        if not self._is_counting:
            self._is_counting = True
            counting, counts = self._dependencies.counting, self._counts
            counting.add(self._count_facts)
            counting.answers = partial(self._guard, counts.count_answers)
            counting.synced = counts.count_sync
            counting.mqtt_message = counts.count_message
            self._dependencies.observers.add(self)

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:  # noqa: ARG002 - see the port
        """Count a dead letter."""
        if isinstance(fact, Dead):
            self._counts.count_dead_letter(fact)

    async def exposition(self) -> bytes:
        """The current numbers as text."""
        self.start()
        async with self._rendering:
            now_s, last = self._dependencies.clock.monotonic_s(), self._last
            if last is None or now_s - last[0] >= REUSE_S:
                last = self._last = now_s, await self._render()
            return last[1]

    async def _render(self) -> bytes:
        status = await self._status()
        process = await asyncio.to_thread(read_process)
        self._counts.fold()
        lines: list[str] = []
        parts: list[bytes] = []
        for line in self._lines(status, process):
            lines.append(line)
            if len(lines) >= LINES_PER_TURN:
                parts.append("".join(lines).encode())
                lines.clear()
                await asyncio.sleep(0)
        return b"".join([*parts, "".join(lines).encode()])

    def _count_facts(self, facts: Sequence[WrittenFact]) -> None:
        self._guard(self._counts.count_facts, facts)

    def _guard(self, count: Callable[..., None], *arguments: object) -> None:
        """Count, and stop to count after a fault of this program."""
        try:
            count(*arguments)
        except Exception as error:  # noqa: BLE001 - the journal and the sender are not at fault
            counting = self._dependencies.counting
            counting.remove(self._count_facts)
            counting.answers = None
            self._dependencies.telemetry.problem(
                "counting_ended", error=repr(error), exc_info=error
            )

    def _lines(self, status: NodeStatus, process: ProcessNumbers) -> Iterator[str]:
        """All lines, each with its end. No part takes long before the next ``yield``."""
        yield from _status_lines(status)
        yield from _counted_lines(self._counts)
        yield from self._node_lines()
        traces = self._dependencies.counting.traces
        if traces is not None:
            exported, dropped = traces()
            yield from _family(families.TRACES, {("exported",): exported, ("dropped",): dropped})
        yield families.COMMIT_DURATION.head()
        yield from _histogram(families.COMMIT_DURATION, "", self._counts.syncs)
        for family, value in (
            (families.CPU, process.cpu_s),
            (families.MEMORY, process.memory_bytes),
            (families.OPEN_FILES, process.open_files),
            (families.MAX_FILES, process.max_files),
            (families.START_TIME, status.started_ms / 1000),
        ):
            yield family.head()
            yield _sample(family, value)

    def _node_lines(self) -> Iterator[str]:
        """Placements and hand-offs. Their labels have only ids of configured nodes."""
        counts, nodes = self._counts, self._dependencies.config.nodes
        placements: dict[tuple[str, str], int] = {}
        for (node, cause), count in counts.placements.items():
            here = node is None or node == self._dependencies.node_id
            place = "here" if here else _configured(node, nodes)
            key = place, cause.text if isinstance(cause, Cause) else OTHER
            placements[key] = placements.get(key, 0) + count
        yield from _family(families.PLACEMENTS, placements)
        handoffs: dict[tuple[str, str], int] = {}
        for (node, outcome), count in counts.handoffs.items():
            key = _configured(node, nodes), outcome
            handoffs[key] = handoffs.get(key, 0) + count
        yield from _family(families.HANDOFFS, handoffs)


def _status_lines(status: NodeStatus) -> Iterator[str]:
    oldest_ms = status.oldest_waiting_ms
    oldest_s = 0.0 if oldest_ms is None else max(0, status.now_ms - oldest_ms) / 1000
    checks = {name: ok for name, ok, _ in status.checks}
    values = {
        families.RUNS_WAITING: status.waiting,
        families.RUNS_IN_FLIGHT: status.in_flight,
        families.OLDEST_WAITING: oldest_s,
        families.JOURNAL_BYTES: status.journal_bytes,
        families.UNPROJECTED_BYTES: status.unprojected_bytes,
        families.JOURNAL_BLOCKED: int(status.journal_blocked is not None),
        families.PAUSED: int(status.paused),
        families.DRAINING: int(status.draining),
    }
    if "mqtt" in checks:
        values[families.MQTT_CONNECTED] = int(checks["mqtt"])
    for family, value in values.items():
        yield family.head()
        yield _sample(family, value)
    by_state = {(state,): status.open_runs.get(state, 0) for state in _OPEN_STATES}
    yield from _family(families.RUNS_OPEN, by_state)
    yield from _family(families.CHECK_OK, {(name,): int(ok) for name, ok in checks.items()})
    yield from _family(families.BUILD_INFO, {(status.version, status.node, status.journal): 1})
    circuits = {
        (each.component, state): int(each.circuit == state)
        for each in status.components
        if each.circuit is not None
        for state in _CIRCUIT_STATES
    }
    yield from _family(families.CIRCUIT_STATE, circuits)


def _counted_lines(counts: Counts) -> Iterator[str]:
    yield from _family(families.TRIGGERS, counts.triggers)
    messages = {(str(qos),): count for qos, count in enumerate(counts.messages) if count}
    yield from _family(families.MQTT_MESSAGES, messages)
    yield from _family(
        families.DEAD_LETTERS, {(code,): count for code, count in counts.dead_letters.items()}
    )
    flows, components = list(counts.flows.items()), list(counts.components.items())
    yield families.RUNS_SETTLED.head()
    for flow, each in flows:
        for state, count in each.states.items():
            yield _sample(families.RUNS_SETTLED, count, flow, state.text)
    for family, histograms in (
        (families.RUN_DURATION, [(flow, each.durations) for flow, each in flows]),
        (families.RUN_QUEUE, [(flow, each.queue) for flow, each in flows]),
        (families.CALL_DURATION, [(name, each.durations) for name, each in components]),
    ):
        yield family.head()
        for name, histogram in histograms:
            yield from _histogram(family, _labels(family, name), histogram)
    yield families.CALLS.head()
    for name, each in components:
        yield _sample(families.CALLS, each.durations.count, name, "succeeded")
        for outcome, count in list(each.failures.items()):
            yield _sample(families.CALLS, count, name, outcome)
    retries = {(name,): each.retries for name, each in components}
    yield from _family(families.CALL_RETRIES, retries)


def _family(family: Family, values: Mapping[tuple[str, ...], float]) -> Iterator[str]:
    yield family.head()
    for labels, value in list(values.items()):
        yield _sample(family, value, *labels)


def _sample(family: Family, value: float, *labels: str) -> str:
    text = _labels(family, *labels)
    return f"{family.name}{{{text}}} {value}\n" if text else f"{family.name} {value}\n"


def _histogram(family: Family, labels: str, histogram: Histogram) -> Iterator[str]:
    name, before = family.name, f"{labels}," if labels else ""
    lines = [
        f'{name}_bucket{{{before}le="{bound}"}} {count}\n'
        for bound, count in zip(BOUNDS, histogram.cumulative(), strict=True)
    ]
    yield from lines
    braces = f"{{{labels}}}" if labels else ""
    yield f"{name}_sum{braces} {histogram.sum_s}\n"
    yield f"{name}_count{braces} {histogram.count}\n"


def _labels(family: Family, *values: str) -> str:
    return ",".join(
        f'{name}="{_escaped(value)}"' for name, value in zip(family.labels, values, strict=True)
    )


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _configured(node: str | None, nodes: Mapping[str, object]) -> str:
    return node if node is not None and node in nodes else OTHER
