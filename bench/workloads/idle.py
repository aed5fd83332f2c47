"""An idle node: its memory, its CPU time, and the time from its start until it is ready."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.measure import Figure
from bench.node import Node
from bench.stage import Stage, cpu_s, memory_mib
from bench.systems import RUNTIME_MANAGER

# By mode: (bound, aim) of the seconds until ready, of the MiB of memory, of the percent of a CPU.
BOUNDS = {
    "up": ((1, 0.6), (48, 45), (0.12, 0.08)),
    "mqtt": ((0.6, 0.4), (36, 33), (0.12, 0.08)),
}
NAMES = {"up": "fractal-rm up", "mqtt": "rm_mqtt.py"}


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure a node with the shipped configuration, connected to its broker."""
    starts, seconds = (3, 3) if quick else (10, 20)
    for mode, (ready_bounds, memory_bounds, cpu_bounds) in BOUNDS.items():
        node = Node(stage, f"idle-{mode}", mode=mode)
        seconds_until_ready = []
        for _ in range(starts):
            seconds_until_ready.append(node.start())
            node.stop()
        with node.serving():
            time.sleep(2)
            cpu_before_s = cpu_s(node.pid)
            time.sleep(seconds)
            cpu_percent = 100 * (cpu_s(node.pid) - cpu_before_s) / seconds
            memory = memory_mib(node.pid)
        name = NAMES[mode]
        quantity = f"{name}: time until ready"
        yield Figure("8", RUNTIME_MANAGER, quantity, "s", seconds_until_ready, *ready_bounds)
        quantity = f"{name}: memory when idle"
        yield Figure("8", RUNTIME_MANAGER, quantity, "MiB", [memory], *memory_bounds)
        quantity = f"{name}: CPU use when idle"
        yield Figure("8", RUNTIME_MANAGER, quantity, "%", [cpu_percent], *cpu_bounds)
