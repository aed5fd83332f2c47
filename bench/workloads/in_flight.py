"""Components that answer after 50 ms or after 3 s: many flows are in flight."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator

from bench.measure import NO_BOUNDS, Bounds, Figure, measure_round
from bench.node import Node
from bench.processes import HOST
from bench.stage import Stage
from bench.systems import RUNTIME_MANAGER, node_system

SLOW_CALLS = 3
POLL_S = 0.1
MEMORY_MIB_BOUNDS = Bounds(bound=300, aim=200)
NONE_FAILED = Bounds(bound=0, aim=0)


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure with several values of max_inflight_runs.

    With calls of 50 ms, the processor limits the rate, and fewer runs are in flight than
    max_inflight_runs allows. With calls of 3 s, max_inflight_runs limits the rate.
    """
    rounds = 1 if quick else 3
    factor = 1 if quick else 4
    yield from _figures(
        stage, stage.slow_50_ms_port, call_s=0.05, max_in_flight=1_000, count=1_000 * factor,
        rounds=rounds,
    )  # fmt: skip
    yield from _figures(
        stage, stage.slow_50_ms_port, call_s=0.05, max_in_flight=10_000, count=10_000 * factor,
        rounds=rounds, memory_bounds=MEMORY_MIB_BOUNDS,
    )  # fmt: skip
    yield from _figures(
        stage, stage.slow_3_s_port, call_s=3.0, max_in_flight=10_000, count=12_000, rounds=1,
        memory_bounds=MEMORY_MIB_BOUNDS,
    )  # fmt: skip


def _figures(
    stage: Stage,
    component_port: int,
    *,
    call_s: float,
    max_in_flight: int,
    count: int,
    rounds: int,
    memory_bounds: Bounds = NO_BOUNDS,
) -> Iterator[Figure]:
    """Measure rounds of ``count`` triggers with a component whose calls take ``call_s`` seconds."""
    node = Node(stage, f"in-flight-{max_in_flight}-{call_s}", nginx_port=component_port,
                balancer_port=stage.nginx_port,
                state={"max_inflight_runs": max_in_flight})  # fmt: skip
    with node.serving():
        system = node_system(node, count)
        poller = _InFlightPoller(node.rest_port)
        measured = [measure_round(stage, system) for _ in range(rounds)]
        most_in_flight = poller.end()
        failed = node.select_number("SELECT count(*) FROM runs WHERE state != 'succeeded'")
    highest_rate = max_in_flight / (SLOW_CALLS * call_s)
    conditions = f"at most {max_in_flight:,} runs in flight, calls of {call_s:g} s"
    rates = [r.flows_per_s for r in measured]
    note = (
        f"max_inflight_runs allows {highest_rate:,.0f} flows/s; at most {most_in_flight:,} runs"
        " were in flight"
    )
    yield Figure(
        "4", RUNTIME_MANAGER, f"{conditions}: flows/s", "", rates, more_is_better=True, note=note
    )
    yield Figure("4", RUNTIME_MANAGER, f"{conditions}: failed runs", "", [failed], *NONE_FAILED)
    peak_mib = [max(r.peak_mib for r in measured)]
    yield Figure(
        "4", RUNTIME_MANAGER, f"{conditions}: peak memory", "MiB", peak_mib, *memory_bounds
    )


class _InFlightPoller(threading.Thread):
    """Polls /readyz, and records the largest number of runs in flight."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._url = f"http://{HOST}:{port}/readyz"
        self._most_in_flight = 0
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        """Poll until `end` is called."""
        while not self._ended.wait(POLL_S):
            with urllib.request.urlopen(self._url, timeout=30) as answer:
                checks = json.load(answer)["checks"]
            text = next(check["text"] for check in checks if check["name"] == "room")
            self._most_in_flight = max(self._most_in_flight, int(re.match(r"\d+", text)[0]))

    def end(self) -> int:
        """Stop polling. Returns the largest number of runs that were in flight."""
        self._ended.set()
        self.join()
        return self._most_in_flight
