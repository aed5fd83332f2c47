"""A long history: bytes for each run, CPU time with ten million runs and during their deletion."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

from bench.journal import multiply, used_bytes
from bench.measure import NO_BOUNDS, Bounds, Figure, measure_round
from bench.node import Node
from bench.processes import HOST
from bench.stage import Stage
from bench.systems import RUNTIME_MANAGER, node_system

KEEP_ALL = {"max_age_s": 316_000_000, "max_bytes": 10**12}
RATE = 500  # triggers a second
# 1 means that the CPU time does not grow with the history.
CPU_RATIO_BOUNDS = Bounds(bound=1.1, aim=1.03)
READY_S_BOUNDS = Bounds(bound=0.5, aim=0.3)
QUERY_MS_BOUNDS = Bounds(bound=100, aim=30)
QUERIES = (  # a query takes longest if no run matches
    "limit=100", "flow=1", "flow=3", "state=succeeded", "state=failed", "component=component1",
    "component=none", "cause=deadline", "source=mqtt", "source=cron", "node=2", "text=none",
    "until=2020-01-01T00:00:00Z", "parent=none",
)  # fmt: skip
KEEP_LITTLE = {"max_age_s": 316_000_000, "max_bytes": 1 << 20}


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure with a short history, with a long history, and while old runs are deleted.

    The long history consists of copies of the runs of the short history, with new ids.
    """
    count, long_count, seconds = (2_000, 50_000, 22) if quick else (10_000, 10_000_000, 40)
    rounds = 1 if quick else 3
    ratio_bounds = NO_BOUNDS if quick else CPU_RATIO_BOUNDS
    ready_bounds = NO_BOUNDS if quick else READY_S_BOUNDS
    query_bounds = NO_BOUNDS if quick else QUERY_MS_BOUNDS
    node = Node(stage, "history", history=KEEP_ALL)
    with node.serving():
        system = node_system(node, count)
        measure_round(stage, system, count // 10)
        short_cpu_us = [measure_round(stage, system).cpu_us for _ in range(rounds)]
    short_count = node.select_number("SELECT count(*) FROM runs")
    run_bytes = used_bytes(node.journal) / short_count
    yield Figure("7", RUNTIME_MANAGER, "bytes in the history per run", "B", [run_bytes])
    quantity = f"CPU time per flow, {short_count:,} runs in the history"
    yield Figure("7", RUNTIME_MANAGER, quantity, "µs", short_cpu_us)
    multiply(node.journal, long_count)
    ready_s = node.start()
    system = node_system(node, count)
    long_cpu_us = [measure_round(stage, system).cpu_us for _ in range(rounds)]
    quantity = f"CPU time per flow, {long_count:,} runs in the history"
    yield Figure("7", RUNTIME_MANAGER, quantity, "µs", long_cpu_us)
    ratios = [long / short for short, long in zip(short_cpu_us, long_cpu_us, strict=True)]
    quantity = "CPU time per flow, divided by that with the short history"
    yield Figure("7", RUNTIME_MANAGER, quantity, "×", ratios, *ratio_bounds)
    quantity = f"time until ready, {long_count:,} runs in the history"
    yield Figure("7", RUNTIME_MANAGER, quantity, "s", [ready_s], *ready_bounds)
    for query, took_ms in _list_queries(node):
        quantity = f"time of a GET /v1/runs?{query}"
        yield Figure("7", RUNTIME_MANAGER, quantity, "ms", took_ms, *query_bounds)
    timed_count = RATE * seconds  # so many that the node searches for old runs several times
    keeping_cpu_us = measure_round(stage, system, timed_count, RATE).cpu_us
    node.stop()
    node.edit_config("comm", lambda file: file.update(history=KEEP_LITTLE))
    with node.serving():
        # The outcomes cannot be read, because the node deletes the runs soon.
        system = replace(node_system(node, count), outcomes=None)
        runs_before = node.select_number("SELECT count(*) FROM runs")
        deleting_cpu_us = measure_round(stage, system, timed_count, RATE).cpu_us
        runs_after = node.select_number("SELECT count(*) FROM runs")
    quantity = f"CPU time per flow at {RATE} flows/s"
    yield Figure("7", RUNTIME_MANAGER, quantity, "µs", [keeping_cpu_us])
    note = f"{runs_before + timed_count - runs_after:,} runs deleted in {seconds} s"
    quantity = f"{quantity}, while old runs are deleted"
    yield Figure("7", RUNTIME_MANAGER, quantity, "µs", [deleting_cpu_us], note=note)


def _list_queries(node: Node) -> Iterator[tuple[str, list[float]]]:
    """Request the first page of the list of runs with each of QUERIES that the node's API supports.

    Yields the query, and the milliseconds that each of five requests took.
    """
    url = f"http://{HOST}:{node.rest_port}"
    with urllib.request.urlopen(f"{url}/schema") as answer:
        parameters = json.load(answer)["paths"]["/v1/runs"]["get"]["parameters"]
    filters = {each["name"] for each in parameters}
    for query in QUERIES:
        if query.partition("=")[0] in filters:
            yield query, [_request_ms(f"{url}/v1/runs?{query}") for _ in range(5)]


def _request_ms(url: str) -> float:
    """Send a GET request. Returns how long it took, in milliseconds."""
    start_s = time.perf_counter()
    with urllib.request.urlopen(url, timeout=600) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - start_s)
