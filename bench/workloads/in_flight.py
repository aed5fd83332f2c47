"""Slow components, of 50 ms and of 3 s: many flows in flight."""

from __future__ import annotations

import json
import re
import threading
import urllib.request
from collections.abc import Iterator

from bench.measure import Figure, one_round
from bench.node import Node
from bench.processes import HOST
from bench.stage import Stage
from bench.systems import OURS, ours

SLOW_CALLS = 3
POLL_S = 0.1


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure with several bounds of runs in flight.

    With calls of 50 ms, the processor limits the rate: fewer flows are in flight than the bound
    allows. With calls of 3 s, the bound limits the rate: as many flows are in flight as it allows.
    """
    rounds = 1 if quick else 3
    share = 1 if quick else 4
    slow, sluggish = (stage.slow_50_ms, 0.05), (stage.slow_3_s, 3.0)
    yield from _one(stage, slow, 1_000, 1_000 * share, rounds)
    yield from _one(stage, slow, 10_000, 10_000 * share, rounds, (300, 200))
    yield from _one(stage, sluggish, 10_000, 12_000, 1, (300, 200))


def _one(
    stage: Stage,
    component: tuple[int, float],
    in_flight: int,
    count: int,
    rounds: int,
    memory: tuple[float, ...] = (),
) -> Iterator[Figure]:
    port, call_s = component
    node = Node(stage, f"in-flight-{in_flight}-{call_s}", nginx=port, balancer=stage.nginx,
                state={"max_inflight_runs": in_flight})  # fmt: skip
    with node.serving():
        system = ours(node, count)
        watch = _Watch(node.rest)
        found = [one_round(stage, system) for _ in range(rounds)]
        most = watch.end()
        failed = node.number("SELECT count(*) FROM runs WHERE state != 'succeeded'")
    allows = in_flight / (SLOW_CALLS * call_s)
    what = f"at most {in_flight:,} runs in flight, calls of {call_s:g} s"
    rates = [r.flows_per_s for r in found]
    note = f"the bound allows {allows:,.0f} flows/s; at most {most:,} runs were in flight"
    yield Figure("4", OURS, f"{what}: flows/s", "", rates, more=True, note=note)
    yield Figure("4", OURS, f"{what}: failed runs", "", [failed], 0, 0)
    peak = [max(r.peak_mib for r in found)]
    yield Figure("4", OURS, f"{what}: peak memory", "MiB", peak, *memory)


class _Watch(threading.Thread):
    """Polls /readyz for the largest number of runs in flight."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self._url = f"http://{HOST}:{port}/readyz"
        self._most = 0
        self._ended = threading.Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(POLL_S):
            with urllib.request.urlopen(self._url, timeout=30) as answer:
                checks = json.load(answer)["checks"]
            text = next(check["text"] for check in checks if check["name"] == "room")
            self._most = max(self._most, int(re.match(r"\d+", text)[0]))

    def end(self) -> int:
        self._ended.set()
        self.join()
        return self._most
