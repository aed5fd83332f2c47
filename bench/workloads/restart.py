"""A crash with unfinished runs in the journal: the time until the node is ready again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from bench.measure import Figure, fill_queue
from bench.node import Node
from bench.stage import Stage, memory_mib, wait_until
from bench.systems import OURS


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Kill a paused node that has accepted runs, and start it again.

    The pause ends before the last start.
    """
    count = 10_000 if quick else 100_000
    node = Node(stage, "restart")
    _command(node, "pause", "--all")
    node.start()
    fill_queue(stage, count)
    wait_until(lambda: node.count("accepted") == count)
    node.stop(kill=True)
    ready, first = list[float](), list[float]()
    for _ in range(1 if quick else 3):
        ready.append(node.start())
        node.stop(kill=True)
    _command(node, "resume")
    began, ended = time.perf_counter(), stage.ended_flows()
    node.start()
    wait_until(lambda: stage.ended_flows() > ended)
    first.append(time.perf_counter() - began)
    memory = memory_mib(node.pid, what="VmHWM")
    node.stop(kill=True)
    what = f"{count:,} unfinished runs"
    of_ready, of_memory = ((), ()) if quick else ((1.5, 0.8), (220, 150))
    yield Figure("6", OURS, f"{what}: time until ready", "s", ready, *of_ready)
    yield Figure("6", OURS, f"{what}: time until the first run is settled", "s", first)
    yield Figure("6", OURS, f"{what}: peak memory", "MiB", [memory], *of_memory)


def _command(node: Node, *words: str) -> None:
    """Run a command as an operator does."""
    command = [sys.executable, "-m", "fractal_rm.cli.main", *words, "--config", str(node.config)]
    subprocess.run(command, check=True, capture_output=True)
