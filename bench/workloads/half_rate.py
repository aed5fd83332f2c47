"""Flow 1 at half of the rate that it can have: what we add to the components' own time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from http.client import HTTPConnection

from bench.measure import Figure, one_round, percentile_of
from bench.node import Node
from bench.processes import HOST
from bench.stage import Stage
from bench.systems import OURS, ours
from bench.workloads.throughput import CALLS_PER_FLOW


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """The rate is half of what a round flat out has just shown."""
    rounds, seconds = (1, 3) if quick else (5, 10)
    with Node(stage, "half-rate").serving() as node:
        system = ours(node, 4_000 if quick else 20_000)
        one_round(stage, system)
        rate = one_round(stage, system).flows_per_s / 2
        own_ms = CALLS_PER_FLOW * 1000 * component_s(stage)
        found = [one_round(stage, system, int(rate * seconds), rate) for _ in range(rounds)]
    note = f"{rate:,.0f} triggers a second"
    yield Figure("2", OURS, "CPU per flow", "µs", [r.cpu_us for r in found], note=note)
    yield Figure("2", "the components", "four calls, one after another", "ms", [own_ms])
    for percentile, bounds in ((50, ()), (99, (10, 3))):
        added = [r.wait_ms(percentile) - own_ms for r in found]
        yield Figure("2", OURS, f"added latency, p{percentile}", "ms", added, *bounds)


def component_s(stage: Stage) -> float:
    """How long nginx takes for a call, from a plain client on a kept connection: the median."""
    connection = HTTPConnection(HOST, stage.nginx)
    took = []
    for _ in range(500):
        began = time.perf_counter()
        connection.request("POST", "/endpoint1", b'{"payload": ["0x03abcdefghil"]}')
        connection.getresponse().read()
        took.append(time.perf_counter() - began)
    connection.close()
    return percentile_of(took, 50)
