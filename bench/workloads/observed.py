"""Flow 1 at full speed, with a scrape of `/metrics` every second and without: pairs of rounds."""

from __future__ import annotations

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from bench.measure import NO_BOUNDS, Bounds, Figure, measure_quiet_round, measure_round
from bench.node import Node
from bench.processes import HOST
from bench.stage import Stage, memory_mib
from bench.systems import RUNTIME_MANAGER, node_system

SCRAPE_EVERY_S = 1.0
# CPU time with scrapes, divided by that without.
RATIO_BOUNDS = Bounds(bound=1.03, aim=1.015)


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure two equal nodes in turns; only one of them is scraped."""
    rounds, count = (2, 4_000) if quick else (10, 20_000)
    scraped_node = Node(stage, "scraped", topic="bench/scraped")
    plain_node = Node(stage, "plain", topic="bench/plain")
    with scraped_node.serving(), plain_node.serving():
        scraped, plain = (node_system(node, count) for node in (scraped_node, plain_node))
        with _scraping(scraped_node):
            measure_round(stage, scraped)  # this round warms up the system
        measure_round(stage, plain)
        pairs: list[tuple[float, float]] = []
        for _ in range(rounds):
            with _scraping(scraped_node):
                with_cpu_us = measure_quiet_round(stage, scraped).cpu_us
            pairs.append((with_cpu_us, measure_quiet_round(stage, plain).cpu_us))
        more_mib = memory_mib(scraped_node.pid) - memory_mib(plain_node.pid)
    scraped_cpu_us, plain_cpu_us = zip(*pairs, strict=True)
    ratios = [with_us / without_us for with_us, without_us in pairs]
    name, scrapes = RUNTIME_MANAGER, "with a scrape every second"
    yield Figure("13", name, f"CPU time per flow, {scrapes}", "µs", scraped_cpu_us)
    yield Figure("13", name, "CPU time per flow, without scrapes", "µs", plain_cpu_us)
    quantity = f"CPU time per flow {scrapes}, divided by that without"
    yield Figure("13", name, quantity, "×", ratios, *(NO_BOUNDS if quick else RATIO_BOUNDS))
    yield Figure("13", name, f"more memory {scrapes}", "MiB", [more_mib])


@contextmanager
def _scraping(node: Node) -> Iterator[None]:
    """Read the metrics of a node every second during the block."""
    url, ended = f"http://{HOST}:{node.rest_port}/metrics", threading.Event()

    def scrape() -> None:
        while True:
            with urllib.request.urlopen(url, timeout=60) as response:
                response.read()
            if ended.wait(SCRAPE_EVERY_S):
                return

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
