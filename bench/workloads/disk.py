"""What a flow writes to the disk, for the life of a flash memory."""

from __future__ import annotations

from collections.abc import Iterator

from bench.measure import Figure, one_round
from bench.node import Node
from bench.stage import Stage, written_bytes
from bench.systems import OURS, ours


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Flat out, where many flows share a commit, and at a quiet rate, where few do."""
    loads = ((2_000, 0), (100, 50)) if quick else ((20_000, 0), (1_000, 50))
    for durable in ("accept", "step"):
        node = Node(stage, f"disk-{durable}")
        node.write_durable(durable)
        with node.serving():
            system = ours(node, loads[0][0])
            one_round(stage, system, 200)
            for count, rate in loads:
                before = written_bytes(node.pid)
                one_round(stage, system, count, rate)
                kib = (written_bytes(node.pid) - before) / count / 1024
                load = f"{rate} flows/s" if rate else "flat out"
                yield Figure("9", OURS, f"DURABLE {durable}, {load}", "KiB", [kib])
