"""An idle node: its memory, its CPU time, and the time from its start until it is ready."""

from __future__ import annotations

import time
from collections.abc import Iterator

from bench.measure import Bounds, Figure
from bench.node import Node
from bench.stage import Stage, cpu_s, memory_mib
from bench.systems import RUNTIME_MANAGER

READY_S_BOUNDS = {"up": Bounds(bound=1, aim=0.6), "mqtt": Bounds(bound=0.6, aim=0.4)}
MEMORY_MIB_BOUNDS = {"up": Bounds(bound=48, aim=45), "mqtt": Bounds(bound=36, aim=33)}
CPU_PERCENT_BOUNDS = Bounds(bound=0.12, aim=0.08)  # of one CPU
NAMES = {"up": "fractal-rm up", "mqtt": "rm_mqtt.py"}


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure a node with the shipped configuration, connected to its broker."""
    starts, seconds = (3, 3) if quick else (10, 20)
    for mode, name in NAMES.items():
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
        quantity = f"{name}: time until ready"
        yield Figure(
            "8", RUNTIME_MANAGER, quantity, "s", seconds_until_ready, *READY_S_BOUNDS[mode]
        )
        quantity = f"{name}: memory when idle"
        yield Figure("8", RUNTIME_MANAGER, quantity, "MiB", [memory], *MEMORY_MIB_BOUNDS[mode])
        quantity = f"{name}: CPU use when idle"
        yield Figure("8", RUNTIME_MANAGER, quantity, "%", [cpu_percent], *CPU_PERCENT_BOUNDS)
