"""Flow 1 at full speed, with this commit and another one: `make bench ONLY=12 AGAINST=main`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.measure import NO_BOUNDS, Bounds, Figure, measure_quiet_round, measure_round
from bench.node import ROOT, Node
from bench.stage import Stage
from bench.systems import RUNTIME_MANAGER, node_system

# CPU time of this commit, divided by that of the other commit.
RATIO_BOUNDS = Bounds(bound=1.03, aim=0.9)


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure rounds in pairs, so that other programs disturb both commits alike."""
    if stage.other_commit is None:
        print("   not measured, because AGAINST=... names no commit to compare with", flush=True)
        return
    rounds, count = (2, 4_000) if quick else (9, 20_000)
    folder = stage.folder / "other-commit"
    _unpack(stage.other_commit, folder)
    this_node = Node(stage, "this", topic="bench/this")
    other_node = Node(stage, "other", topic="bench/other", source=folder / "src")
    with this_node.serving(), other_node.serving():
        systems = [node_system(node, count) for node in (this_node, other_node)]
        for system in systems:  # this round warms up the system
            measure_round(stage, system)
        pairs = [
            [measure_quiet_round(stage, each).cpu_us for each in systems] for _ in range(rounds)
        ]
    this_cpu_us, other_cpu_us = zip(*pairs, strict=True)
    ratios = [this / other for this, other in pairs]
    bounds = NO_BOUNDS if quick else RATIO_BOUNDS
    yield Figure("12", RUNTIME_MANAGER, "CPU time per flow", "µs", this_cpu_us)
    yield Figure("12", stage.other_commit, "CPU time per flow", "µs", other_cpu_us)
    quantity = f"CPU time per flow, divided by that of {stage.other_commit}"
    yield Figure("12", RUNTIME_MANAGER, quantity, "×", ratios, *bounds)


def _unpack(commit: str, folder: Path) -> None:
    """Write the folder src of a commit into a new folder. The repository is not changed."""
    folder.mkdir()
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "src"], check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
