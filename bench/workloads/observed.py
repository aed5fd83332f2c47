"""Flow 1 at full speed, while somebody observes the node and while nobody does: pairs of rounds."""

from __future__ import annotations

import re
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from bench.measure import NO_BOUNDS, Bounds, Figure, measure_quiet_round, measure_round
from bench.node import Node
from bench.processes import HOST
from bench.stage import Stage, memory_mib
from bench.systems import RUNTIME_MANAGER, node_system

# CPU time while observed, divided by that without.
RATIO_BOUNDS = Bounds(bound=1.03, aim=1.015)


@dataclass(frozen=True)
class Observing:
    """What observers read: each of ``paths``, every ``every_s`` seconds, with ``headers``.

    A page says itself after how many seconds it is read again.
    """

    name: str
    paths: tuple[str, ...]
    every_s: float
    headers: dict[str, str]


SCRAPES = Observing("with a scrape every second", ("metrics",), 1.0, {})
# An open page reads itself again when it says so; see live.js.
EVERY = re.compile(rb'data-every="(\d+)"')
BROWSERS = Observing(
    "with three pages open in browsers", ("", "runs", "flows/1"), 3.0, {"HX-Request": "true"}
)


def measure_scrapes(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure with a scrape of ``/metrics`` every second, and without."""
    return _measure(stage, "13", SCRAPES, quick=quick)


def measure_pages(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure with three pages open in browsers, and without."""
    return _measure(stage, "14", BROWSERS, quick=quick)


def _measure(stage: Stage, workload: str, observing: Observing, *, quick: bool) -> Iterator[Figure]:
    """Measure two equal nodes in turns; only one of them is observed."""
    rounds, count = (2, 4_000) if quick else (10, 20_000)
    observed_node = Node(stage, f"observed-{workload}", topic=f"bench/observed-{workload}")
    plain_node = Node(stage, f"plain-{workload}", topic=f"bench/plain-{workload}")
    pairs: list[tuple[float, float]] = []
    with (
        observed_node.serving(),
        plain_node.serving(),
        observing_node(observed_node, observing),  # all the time, as an open browser does
    ):
        observed, plain = (node_system(node, count) for node in (observed_node, plain_node))
        for system in (observed, plain):
            measure_round(stage, system)  # this round warms up the system
        for _ in range(rounds):
            with_cpu_us = measure_quiet_round(stage, observed).cpu_us
            pairs.append((with_cpu_us, measure_quiet_round(stage, plain).cpu_us))
        more_mib = memory_mib(observed_node.pid) - memory_mib(plain_node.pid)
    observed_cpu_us, plain_cpu_us = zip(*pairs, strict=True)
    ratios = [with_us / without_us for with_us, without_us in pairs]
    name, how = RUNTIME_MANAGER, observing.name
    yield Figure(workload, name, f"CPU time per flow, {how}", "µs", observed_cpu_us)
    yield Figure(workload, name, "CPU time per flow, without", "µs", plain_cpu_us)
    quantity = f"CPU time per flow {how}, divided by that without"
    yield Figure(workload, name, quantity, "×", ratios, *(NO_BOUNDS if quick else RATIO_BOUNDS))
    yield Figure(workload, name, f"more memory {how}", "MiB", [more_mib])


@contextmanager
def observing_node(node: Node, observing: Observing) -> Iterator[None]:
    """Read all paths of ``observing`` again and again during the block, each in a thread."""
    ended = threading.Event()

    def observe(path: str) -> None:
        url = f"http://{HOST}:{node.rest_port}/{path}"
        request = urllib.request.Request(url, headers=observing.headers)
        while True:
            with urllib.request.urlopen(request, timeout=60) as response:
                said = EVERY.search(response.read())
            if ended.wait(observing.every_s if said is None else float(said[1])):
                return

    with ExitStack() as stack:
        for path in observing.paths:
            thread = threading.Thread(target=observe, args=(path,))
            thread.start()
            stack.callback(thread.join)
        stack.callback(ended.set)
        yield
