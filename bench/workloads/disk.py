"""Bytes that a flow writes to the disk: writes wear out flash memory."""

from __future__ import annotations

from collections.abc import Iterator

from bench.disks import Disk
from bench.measure import Figure, one_round
from bench.node import Node
from bench.stage import Stage
from bench.systems import OURS, ours

LOW_RATE = 50  # triggers a second
BOUNDS = {"accept": (9, 6), "step": (18, 12)}


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure at full speed, where many flows share a sync, and at a low rate, where few do."""
    rounds, many, few = (1, 2_000, 100) if quick else (3, 20_000, 1_000)
    for durable, bounds in BOUNDS.items():
        disk = stage.disk(f"disk-{durable}")
        node = Node(stage, durable, disk=disk)
        node.set_durable(durable)
        of_many = _written_kib(stage, node, disk, rounds, many, 0)
        what = f"written per flow, DURABLE {durable}, at full speed"
        yield Figure("9", OURS, what, "KiB", of_many, note=disk.counts)
        of_few = _written_kib(stage, node, disk, rounds, few, LOW_RATE)
        what = f"written per flow, DURABLE {durable}, {LOW_RATE} flows/s"
        yield Figure("9", OURS, what, "KiB", of_few, *(() if quick else bounds))


def _written_kib(
    stage: Stage, node: Node, disk: Disk, rounds: int, count: int, rate: float
) -> list[float]:
    """KiB for each flow, by round, with the history and an orderly stop.

    A node that stops writes what it has not written yet. The node is used once before the rounds,
    so that the files of its log exist.
    """
    with node.serving():
        one_round(stage, ours(node, count))
    found = []
    for _ in range(rounds):
        node.start()
        before = disk.written(node.pid)
        one_round(stage, ours(node, count), rate=rate)
        node.stop()
        found.append((disk.written() - before) / count / 1024)
    return found
