"""A growing history: bytes for each run; CPU time with ten million runs, and with deletion."""

from __future__ import annotations

import json
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace

from bench.journal import multiply, used_bytes
from bench.measure import Figure, one_round
from bench.node import Node
from bench.processes import HOST
from bench.stage import Stage
from bench.systems import OURS, ours

KEEP_ALL = {"max_age_s": 316_000_000, "max_bytes": 10**12}
RATE = 500
AGAINST_SHORT = (1.1, 1.03)  # the CPU time must not grow, except for the noise of the medians
QUERIES = (  # queries that find nothing take longest
    "limit=100", "flow=1", "flow=3", "state=succeeded", "state=failed", "component=component1",
    "component=none", "cause=deadline", "source=mqtt", "source=cron", "node=2", "text=none",
    "until=2020-01-01T00:00:00Z", "parent=none",
)  # fmt: skip
KEEP_LITTLE = {"max_age_s": 316_000_000, "max_bytes": 1 << 20}


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Make some runs, then copy them under new ids until the history is long."""
    count, many, seconds = (2_000, 50_000, 22) if quick else (10_000, 10_000_000, 40)
    rounds = 1 if quick else 3
    node = Node(stage, "history", history=KEEP_ALL)
    with node.serving():
        system = ours(node, count)
        one_round(stage, system, count // 10)
        few = [one_round(stage, system).cpu_us for _ in range(rounds)]
    runs = node.number("SELECT count(*) FROM runs")
    yield Figure("7", OURS, "bytes of the journal per run", "B", [used_bytes(node.journal) / runs])
    yield Figure("7", OURS, f"CPU per flow, {runs:,} runs in the history", "µs", few)
    multiply(node.journal, many)
    ready = node.start()
    long = ours(node, count)
    grown = [one_round(stage, long).cpu_us for _ in range(rounds)]
    yield Figure("7", OURS, f"CPU per flow, {many:,} runs in the history", "µs", grown)
    against = [after / before for before, after in zip(few, grown, strict=True)]
    yield Figure("7", OURS, "CPU per flow ÷ CPU per flow with the short history", "×", against,
                 *(() if quick else AGAINST_SHORT))  # fmt: skip
    yield Figure("7", OURS, f"time until ready, {many:,} runs in the history", "s", [ready],
                 *(() if quick else (0.5, 0.3)))  # fmt: skip
    for query, took_ms in _pages_ms(node):
        yield Figure("7", OURS, f"a page of the list, {query}", "ms", took_ms,
                     *(() if quick else (100, 30)))  # fmt: skip
    steady = RATE * seconds, RATE  # long enough for several searches for old runs
    keeping = one_round(stage, long, *steady).cpu_us
    node.stop()
    node.edit("comm", lambda file: file.update(history=KEEP_LITTLE))
    with node.serving():
        # The outcomes of the runs are deleted before they could be read.
        long = replace(ours(node, count), outcomes=None)
        before = node.number("SELECT count(*) FROM runs")
        deleting = one_round(stage, long, *steady).cpu_us
        deleted = before + steady[0] - node.number("SELECT count(*) FROM runs")
    at = f"at {RATE} flows/s"
    yield Figure("7", OURS, f"CPU per flow {at}", "µs", [keeping])
    yield Figure("7", OURS, f"CPU per flow {at}, deleting old runs", "µs", [deleting],
                 note=f"{deleted:,} runs deleted in {seconds} s")  # fmt: skip


def _pages_ms(node: Node) -> Iterator[tuple[str, list[float]]]:
    """How long a page of the list takes with each filter of the API, in milliseconds."""
    url = f"http://{HOST}:{node.rest}"
    with urllib.request.urlopen(f"{url}/schema") as answer:
        parameters = json.load(answer)["paths"]["/v1/runs"]["get"]["parameters"]
    known = {each["name"] for each in parameters}
    for query in QUERIES:
        if query.partition("=")[0] in known:
            yield query, [_page_ms(f"{url}/v1/runs?{query}") for _ in range(5)]


def _page_ms(url: str) -> float:
    began = time.perf_counter()
    with urllib.request.urlopen(url, timeout=600) as answer:
        answer.read()
    return 1000 * (time.perf_counter() - began)
