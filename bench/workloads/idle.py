"""An idle node: the time until it is ready, its memory and its CPU time."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.measure import Figure
from bench.node import Node
from bench.stage import Stage, cpu_s, memory_mib
from bench.systems import OURS

BOUNDS = {  # ready s, memory MiB, CPU %
    "up": ((1, 0.6), (48, 45), (0.12, 0.08)),
    "mqtt": ((0.6, 0.4), (36, 33), (0.12, 0.08)),
}
NAMES = {"up": "up", "mqtt": "rm_mqtt.py"}


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure a node with the shipped configuration, connected to its broker."""
    starts, seconds = (3, 3) if quick else (10, 20)
    for mode, (ready_s, mib, percent) in BOUNDS.items():
        node = Node(stage, f"idle-{mode}", mode=mode)
        ready = []
        for _ in range(starts):
            ready.append(node.start())
            node.stop()
        with node.serving():
            time.sleep(2)
            before = cpu_s(node.pid)
            time.sleep(seconds)
            cpu = 100 * (cpu_s(node.pid) - before) / seconds
            memory = memory_mib(node.pid)
        name = NAMES[mode]
        yield Figure("8", OURS, f"{name}: time until ready", "s", ready, *ready_s)
        yield Figure("8", OURS, f"{name}: idle memory", "MiB", [memory], *mib)
        yield Figure("8", OURS, f"{name}: idle CPU", "%", [cpu], *percent)
