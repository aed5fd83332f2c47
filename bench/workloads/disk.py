"""Bytes that a flow writes to the disk. This matters because writes wear out flash memory."""

from __future__ import annotations

from collections.abc import Iterator

from bench.disks import Disk
from bench.measure import NO_BOUNDS, Bounds, Figure, measure_round
from bench.node import Node
from bench.stage import Stage
from bench.systems import RUNTIME_MANAGER, node_system

LOW_RATE = 50  # triggers a second
KIB_BOUNDS = {  # at the low rate
    "accept": Bounds(bound=9, aim=6),
    "step": Bounds(bound=18, aim=12),
}


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure at full speed, at which one fsync serves many flows, and at a low rate."""
    rounds, full_count, low_count = (1, 2_000, 100) if quick else (3, 20_000, 1_000)
    for durable_mode, bounds in KIB_BOUNDS.items():
        disk = stage.disk(f"disk-{durable_mode}")
        node = Node(stage, durable_mode, disk=disk)
        node.set_durable(durable_mode)
        full_speed_kib = _written_kib(stage, node, disk, rounds, full_count)
        quantity = f"bytes written per flow, DURABLE {durable_mode}, at full speed"
        note = f"bytes are counted as {disk.counted_as}"
        yield Figure("9", RUNTIME_MANAGER, quantity, "KiB", full_speed_kib, note=note)
        low_rate_kib = _written_kib(stage, node, disk, rounds, low_count, rate=LOW_RATE)
        quantity = f"bytes written per flow, DURABLE {durable_mode}, at {LOW_RATE} flows/s"
        used_bounds = NO_BOUNDS if quick else bounds
        yield Figure("9", RUNTIME_MANAGER, quantity, "KiB", low_rate_kib, *used_bounds)


def _written_kib(
    stage: Stage, node: Node, disk: Disk, rounds: int, count: int, *, rate: float = 0
) -> list[float]:
    """Measure rounds. Returns the KiB written for each flow, by round. ``rate`` 0: full speed.

    This includes the history, and the data that a node writes when it stops. An extra first round
    is not measured, because it creates the files of the node's log.
    """
    with node.serving():
        measure_round(stage, node_system(node, count))
    kib_by_round = []
    for _ in range(rounds):
        node.start()
        before_bytes = disk.written_bytes(node.pid)
        measure_round(stage, node_system(node, count), rate=rate)
        node.stop()
        kib_by_round.append((disk.written_bytes() - before_bytes) / count / 1024)
    return kib_by_round
