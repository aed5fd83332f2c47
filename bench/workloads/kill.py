"""kill -9 in a burst: what was lost, and which calls were made again."""

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
STEP_OF = {1: 1, 2: 2, 4: 3}  # so often the word payload is in the body of a step: see stage.py
LAST = 3
LOG_FLUSHED_S = 0.3
LATELY_S = 1.0  # before the kill
USUAL = 90  # percent of the times between two calls of a flow are no longer than what is usual
QUIET_S = 3.0  # nothing comes any more
LOST_S = 60.0  # or so long after the last call, where flows are missing

Start = Callable[[], AbstractContextManager[list[int]]]
Call = tuple[str, int]  # trigger and step


@dataclass
class Outcome:
    """What a kill did to a burst."""

    in_flight: int
    lost: int
    repeated: int  # calls
    flows: int  # with calls that were made again


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """All processes of a system are killed when a quarter of the flows has ended.

    At the next start it has to go on by itself. Triggers wait at the broker meanwhile.
    """
    rounds, count = (1, 2_000) if quick else (3, 20_000)
    for durable in ("accept", "step"):
        node = Node(stage, f"kill-{durable}", nginx=stage.telling, topic=f"bench/{durable}")
        node.write_durable(durable)
        start = partial(_serving, node)
        found = [_killed(stage, start, node.topic, count) for _ in range(rounds)]
        yield from _of(OURS, f"DURABLE {durable}: ", found, count, (1, 1))
    peer = Restate()
    if why := peer.missing():
        print(f"   left out: {why}", flush=True)
        return
    peer.install()
    folder, topic = stage.folder / "kill-restate", "bench/kill-restate"
    folder.mkdir()
    start = partial(peer.start, folder, stage.telling, stage.broker, topic)
    found = [_killed(stage, start, topic, count) for _ in range(rounds)]
    yield from _of(peer.name, "", found, count, ())


@contextmanager
def _serving(node: Node) -> Iterator[list[int]]:
    with node.serving():
        yield [node.pid]


def _killed(stage: Stage, start: Start, topic: str, count: int) -> Outcome:
    """One burst, one kill, and what came of it."""
    heard = _Calls(stage)
    with publisher(stage, count, 0, topic) as (load, _):
        with start() as pids:
            load.stdin.close()
            wait_until(lambda: heard.ended() >= count // 4)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            killed_at = time.time()
        time.sleep(LOG_FLUSHED_S)
        in_flight = heard.in_flight(killed_at)
        with start():
            wait_until(lambda: heard.over(count))
        load.wait()
    again = {call: times - 1 for call, times in heard.made.items() if times > 1}
    return Outcome(
        in_flight, count - heard.ended(), sum(again.values()), len({flow for flow, _ in again})
    )


@dataclass
class _Calls:
    """The calls of a burst, as the component has written them down."""

    stage: Stage
    made: Counter[Call] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._log = (self.stage.folder / "calls.log").open("rb")
        self._log.seek(0, os.SEEK_END)
        self._part = b""
        self._last: dict[str, tuple[int, float]] = {}  # of each flow: the step, and when
        self._gaps: list[tuple[float, float]] = []  # of two calls of a flow: when, and how long
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

    def ended(self) -> int:
        """How many flows have made their last call."""
        self._read()
        return sum(step == LAST for _, step in self.made)

    def in_flight(self, at: float) -> int:
        """How many flows had made a call by then, and not yet written down its answer.

        Nobody sees from outside when a system writes an answer down. It makes the next call of the
        flow after that: as long as this took of late, the answer to a last call may take, too.
        """
        self._read()
        lately = [gap for made, gap in self._gaps if at - LATELY_S < made <= at]
        took_s = percentile_of(lately or [0.0], USUAL)
        return sum(step < LAST or when > at - took_s for step, when in self._last.values())

    def over(self, count: int) -> bool:
        """Whether nothing more is to come of so many flows."""
        quiet_s = QUIET_S if self.ended() == count else LOST_S
        return time.monotonic() - self._moved > quiet_s


def _of(
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
