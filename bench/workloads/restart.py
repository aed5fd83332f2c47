"""A restart after SIGKILL with many unfinished runs: the time until the node is ready again."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator

from bench.measure import NO_BOUNDS, Bounds, Figure, fill_queue
from bench.node import Node
from bench.stage import Stage, memory_mib, wait_until
from bench.systems import RUNTIME_MANAGER

READY_S_BOUNDS = Bounds(bound=1.5, aim=0.8)
MEMORY_MIB_BOUNDS = Bounds(bound=220, aim=150)


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Kill a node that has accepted runs, and start it again, several times.

    The node is paused, so it does not execute the runs. It is resumed only before its last start.
    """
    rounds, count = (1, 10_000) if quick else (3, 100_000)
    node = Node(stage, "restart")
    _run_command(node, "pause", "--all")
    node.start()
    fill_queue(stage, count)
    wait_until(lambda: node.count("accepted") == count)
    node.stop(kill=True)
    ready_s = []
    for _ in range(rounds):
        ready_s.append(node.start())
        node.stop(kill=True)
    _run_command(node, "resume")
    resumed_at, ended_before = time.perf_counter(), stage.ended_flows()
    node.start()
    wait_until(lambda: stage.ended_flows() > ended_before)
    first_run_s = time.perf_counter() - resumed_at
    peak_mib = memory_mib(node.pid, field="VmHWM")
    node.stop(kill=True)
    ready_bounds = NO_BOUNDS if quick else READY_S_BOUNDS
    memory_bounds = NO_BOUNDS if quick else MEMORY_MIB_BOUNDS
    quantity = f"{count:,} unfinished runs: time until ready"
    yield Figure("6", RUNTIME_MANAGER, quantity, "s", ready_s, *ready_bounds)
    quantity = f"{count:,} unfinished runs: time until the first run is settled"
    yield Figure("6", RUNTIME_MANAGER, quantity, "s", [first_run_s])
    quantity = f"{count:,} unfinished runs: peak memory"
    yield Figure("6", RUNTIME_MANAGER, quantity, "MiB", [peak_mib], *memory_bounds)


def _run_command(node: Node, *words: str) -> None:
    """Run a fractal-rm command with the configuration of the node, as an operator does."""
    command = [sys.executable, "-m", "fractal_rm.cli.main", *words, "--config", str(node.config)]
    subprocess.run(command, check=True, capture_output=True)
