"""SIGKILL in a burst of triggers: how many flows are lost, and how many calls are repeated."""

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

from bench.measure import NO_BOUNDS, Bounds, Figure, percentile_of, publisher
from bench.node import Node
from bench.peers.restate.peer import Restate
from bench.stage import Stage, wait_until
from bench.systems import RUNTIME_MANAGER

TRIGGER = re.compile(r"0x[0-9a-f]{12}")
# The step of an HTTP call, by how often its body has the word "payload". The numbers differ, as the
# component returns the body of each request, and later steps send these results.
STEP_BY_PAYLOAD_WORDS = {1: 1, 2: 2, 4: 3}
LAST_STEP = 3
LOG_FLUSHED_S = 0.3
# The time that a system takes to make a call and to record its response is estimated: it is this
# percentile of the times between two calls of a flow, in the last second before the kill.
GAP_PERCENTILE = 90
RECENT_S = 1.0
QUIET_S = 3.0  # if all flows have ended, the burst is over after this time without a call
LOST_S = 60.0  # after this time without a call, unfinished flows count as lost
NONE_LOST = Bounds(bound=0, aim=0)
# Calls repeated per flow in flight.
REPEATED_BOUNDS = Bounds(bound=1, aim=1)

Start = Callable[[], AbstractContextManager[list[int]]]
Call = tuple[str, int]  # the payload of the trigger, and the step


@dataclass
class Outcome:
    """The effects of a kill."""

    flows_in_flight: int  # at the time of the kill
    lost_flows: int
    repeated_calls: int
    flows_with_repeated_calls: int


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Kill all processes of a system when a quarter of the flows has ended, and start them again.

    The restarted system must continue its flows without help. Meanwhile the broker keeps triggers.
    """
    rounds, count = (1, 2_000) if quick else (3, 20_000)
    for durable_mode in ("accept", "step"):
        node = Node(
            stage,
            f"kill-{durable_mode}",
            nginx_port=stage.call_log_port,
            topic=f"bench/{durable_mode}",
        )
        node.set_durable(durable_mode)
        start = partial(_serving, node)
        outcomes = [_kill_once(stage, start, node.topic, count) for _ in range(rounds)]
        prefix = f"DURABLE {durable_mode}: "
        yield from _figures(RUNTIME_MANAGER, prefix, outcomes, count, NONE_LOST, REPEATED_BOUNDS)
    peer = Restate()
    if reason := peer.missing_reason():
        print(f"   a peer is not measured: {reason}", flush=True)
        return
    peer.install()
    folder, topic = stage.folder / "kill-restate", "bench/kill-restate"
    folder.mkdir()
    start = partial(peer.start, folder, stage.call_log_port, stage.broker_port, topic)
    outcomes = [_kill_once(stage, start, topic, count) for _ in range(rounds)]
    yield from _figures(peer.name, "", outcomes, count, NO_BOUNDS, NO_BOUNDS)


@contextmanager
def _serving(node: Node) -> Iterator[list[int]]:
    with node.serving():
        yield [node.pid]


def _kill_once(stage: Stage, start: Start, topic: str, count: int) -> Outcome:
    """Measure one burst of triggers with one kill."""
    calls = _CallLog(stage)
    with publisher(stage, count, topic=topic) as (publisher_process, _):
        with start() as pids:
            publisher_process.stdin.close()
            wait_until(lambda: calls.ended_flows() >= count // 4)
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            killed_at = time.time()
        time.sleep(LOG_FLUSHED_S)
        in_flight = calls.in_flight(killed_at)
        with start():
            wait_until(lambda: calls.is_burst_over(count))
        publisher_process.wait()
    repeats = {call: times - 1 for call, times in calls.count_by_call.items() if times > 1}
    return Outcome(
        in_flight,
        lost_flows=count - calls.ended_flows(),
        repeated_calls=sum(repeats.values()),
        flows_with_repeated_calls=len({payload for payload, _ in repeats}),
    )


@dataclass
class _CallLog:
    """The calls of a burst that the component has logged. The payload of a flow is its name."""

    stage: Stage
    count_by_call: Counter[Call] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._log = (self.stage.folder / "calls.log").open("rb")
        self._log.seek(0, os.SEEK_END)
        self._incomplete_line = b""
        # The last call of each flow: its step and its time.
        self._last_calls: dict[str, tuple[int, float]] = {}
        # For each call except a flow's first one: its time, and the seconds since the call before.
        self._gaps: list[tuple[float, float]] = []
        self._last_read_call = time.monotonic()

    def _read(self) -> None:
        *lines, self._incomplete_line = (self._incomplete_line + self._log.read()).split(b"\n")
        for line in lines:
            time_text, _, body = line.decode().partition(" ")
            called_at = float(time_text)
            payload = TRIGGER.search(body)[0]
            step = STEP_BY_PAYLOAD_WORDS[body.count("payload")]
            last_step, last_called_at = self._last_calls.get(payload, (step, 0))
            self._last_calls[payload] = step, called_at
            self.count_by_call[payload, step] += 1
            if step == last_step + 1:
                self._gaps.append((called_at, called_at - last_called_at))
        if lines:
            self._last_read_call = time.monotonic()

    def ended_flows(self) -> int:
        """How many flows have made their last call."""
        self._read()
        return sum(step == LAST_STEP for _, step in self.count_by_call)

    def in_flight(self, killed_at: float) -> int:
        """How many flows had a call at ``killed_at`` whose response the system had not recorded.

        A response counts as recorded if the flow has made its next call. For the last call of a
        flow this is an estimate: its response counts as recorded if the call is older than the
        usual time between two calls of a flow.
        """
        self._read()
        recent_gaps_s = [
            gap_s
            for called_at, gap_s in self._gaps
            if killed_at - RECENT_S < called_at <= killed_at
        ]
        gap_s = percentile_of(recent_gaps_s or [0.0], GAP_PERCENTILE)
        return sum(
            step < LAST_STEP or called_at > killed_at - gap_s
            for step, called_at in self._last_calls.values()
        )

    def is_burst_over(self, count: int) -> bool:
        """Whether no call was made for so long that the ``count`` flows will make no more calls."""
        quiet_s = QUIET_S if self.ended_flows() == count else LOST_S
        return time.monotonic() - self._last_read_call > quiet_s


def _figures(
    name: str, prefix: str, outcomes: list[Outcome], count: int, lost_bounds: Bounds,
    repeated_bounds: Bounds,
) -> Iterator[Figure]:  # fmt: skip
    """The figures of a system. Their names begin with ``prefix``."""
    flows = ", ".join(f"{each.flows_with_repeated_calls:,}" for each in outcomes)
    in_flight = ", ".join(f"{each.flows_in_flight:,}" for each in outcomes)
    note = (
        f"{count:,} flows a round. In each round: flows with repeated calls: {flows}; flows in"
        f" flight at the kill: {in_flight}"
    )
    lost_flows = [each.lost_flows for each in outcomes]
    yield Figure("11", name, f"{prefix}flows lost", "", lost_flows, *lost_bounds)
    repeated = [each.repeated_calls for each in outcomes]
    yield Figure("11", name, f"{prefix}calls repeated", "", repeated, note=note)
    ratios = [each.repeated_calls / max(each.flows_in_flight, 1) for each in outcomes]
    quantity = f"{prefix}calls repeated per flow in flight"
    yield Figure("11", name, quantity, "", ratios, *repeated_bounds)
