"""kill -9 in a burst: how many flows are lost, and how many calls are repeated."""

from __future__ import annotations

import os
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from functools import partial

from bench.measure import Figure, percentile_of, publisher
from bench.node import Node
from bench.peers.restate.peer import Restate
from bench.stage import Stage, wait_until
from bench.systems import OURS

TRIGGER = re.compile(r"0x[0-9a-f]{12}")
# The step of a call, by how often the word payload is in its body: see stage.py.
STEP_OF = {1: 1, 2: 2, 4: 3}
LAST = 3  # the last step
LOG_FLUSHED_S = 0.3
RECENT_S = 1.0  # before the kill: only these gaps count
GAP_PERCENTILE = 90  # the percentile of the times between two calls of a flow
QUIET_S = 3.0  # after this time without a call, the burst is over
LOST_S = 60.0  # the same, if flows are missing

Start = Callable[[], AbstractContextManager[list[int]]]
Call = tuple[str, int]  # trigger and step


@dataclass
class Outcome:
    """The effects of a kill."""

    in_flight: int
    lost: int
    repeated: int  # calls
    flows: int  # with repeated calls


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Kill all processes of a system when a quarter of the flows has ended, and start it again.

    The system must continue by itself. Until then, triggers wait at the broker.
    """
    rounds, count = (1, 2_000) if quick else (3, 20_000)
    for durable in ("accept", "step"):
        node = Node(stage, f"kill-{durable}", nginx=stage.call_log, topic=f"bench/{durable}")
        node.set_durable(durable)
        start = partial(_serving, node)
        found = [_kill_once(stage, start, node.topic, count) for _ in range(rounds)]
        yield from _figures(OURS, f"DURABLE {durable}: ", found, count, (1, 1))
    peer = Restate()
    if why := peer.missing():
        print(f"   left out: {why}", flush=True)
        return
    peer.install()
    folder, topic = stage.folder / "kill-restate", "bench/kill-restate"
    folder.mkdir()
    start = partial(peer.start, folder, stage.call_log, stage.broker, topic)
    found = [_kill_once(stage, start, topic, count) for _ in range(rounds)]
    yield from _figures(peer.name, "", found, count, ())


@contextmanager
def _serving(node: Node) -> Iterator[list[int]]:
    with node.serving():
        yield [node.pid]


def _kill_once(stage: Stage, start: Start, topic: str, count: int) -> Outcome:
    """One burst with one kill."""
    calls = _Calls(stage)
    with publisher(stage, count, 0, topic) as (load, _):
        with start() as pids:
            load.stdin.close()
            wait_until(lambda: calls.ended_flows() >= count // 4)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            killed_at = time.time()
        time.sleep(LOG_FLUSHED_S)
        in_flight = calls.in_flight(killed_at)
        with start():
            wait_until(lambda: calls.is_over(count))
        load.wait()
    repeated = {call: times - 1 for call, times in calls.made.items() if times > 1}
    return Outcome(
        in_flight,
        count - calls.ended_flows(),
        sum(repeated.values()),
        len({flow for flow, _ in repeated}),
    )


@dataclass
class _Calls:
    """The calls of a burst, as the component has logged them."""

    stage: Stage
    made: Counter[Call] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._log = (self.stage.folder / "calls.log").open("rb")
        self._log.seek(0, os.SEEK_END)
        self._part = b""
        self._last: dict[str, tuple[int, float]] = {}  # by flow: the step and its time
        self._gaps: list[
            tuple[float, float]
        ] = []  # between two calls of a flow: its end and its length
        self._moved = time.monotonic()

    def _read(self) -> None:
        *lines, self._part = (self._part + self._log.read()).split(b"\n")
        for line in lines:
            at, _, body = line.decode().partition(" ")
            flow, step = TRIGGER.search(body)[0], STEP_OF[body.count("payload")]
            before, since = self._last.get(flow, (step, 0))
            self._last[flow] = step, float(at)
            self.made[flow, step] += 1
            if step == before + 1:
                self._gaps.append((float(at), float(at) - since))
        if lines:
            self._moved = time.monotonic()

    def ended_flows(self) -> int:
        """How many flows have made their last call."""
        self._read()
        return sum(step == LAST for _, step in self.made)

    def in_flight(self, at: float) -> int:
        """How many flows had made a call before ``at``, and not yet recorded the response.

        The moment at which a system records a response cannot be seen from outside. The system
        makes the next call of the flow after that moment, so the recent times between two calls are
        used as an estimate.
        """
        self._read()
        recent = [gap for made, gap in self._gaps if at - RECENT_S < made <= at]
        took_s = percentile_of(recent or [0.0], GAP_PERCENTILE)
        return sum(step < LAST or when > at - took_s for step, when in self._last.values())

    def is_over(self, count: int) -> bool:
        """Whether no further call of the ``count`` flows is expected."""
        quiet_s = QUIET_S if self.ended_flows() == count else LOST_S
        return time.monotonic() - self._moved > quiet_s


def _figures(
    name: str, what: str, found: list[Outcome], count: int, bounds: tuple[float, ...]
) -> Iterator[Figure]:
    flows = ", ".join(f"{each.flows:,}" for each in found)
    in_flight = ", ".join(f"{each.in_flight:,}" for each in found)
    note = f"of {count:,} flows; calls of {flows} flows, {in_flight} were in flight"
    lost = [each.lost for each in found]
    yield Figure("11", name, f"{what}flows lost", "", lost, *((0, 0) if bounds else ()))
    repeated = [each.repeated for each in found]
    yield Figure("11", name, f"{what}calls repeated", "", repeated, note=note)
    for_each = [each.repeated / max(each.in_flight, 1) for each in found]
    yield Figure("11", name, f"{what}repeated for each run in flight", "", for_each, *bounds)
