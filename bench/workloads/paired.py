"""Full speed, in turns with another commit: `make bench ONLY=12 AGAINST=main`."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench.measure import Figure, one_round, quiet_round
from bench.node import ROOT, Node
from bench.stage import Stage
from bench.systems import OURS, ours

BOUNDS = (1.03, 0.9)  # times the CPU time of the other commit


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure rounds in pairs, so that other programs disturb both commits alike."""
    if stage.against is None:
        print("   left out: name a commit, as in AGAINST=main", flush=True)
        return
    rounds, count = (2, 4_000) if quick else (9, 20_000)
    folder = stage.folder / "before"
    _unpack(stage.against, folder)
    now = Node(stage, "now", topic="bench/now")
    then = Node(stage, "then", topic="bench/then", source=folder / "src")
    with now.serving(), then.serving():
        systems = [ours(node, count) for node in (now, then)]
        for system in systems:  # to warm up
            one_round(stage, system)
        pairs = [[quiet_round(stage, each).cpu_us for each in systems] for _ in range(rounds)]
    ratios = [mine / before for mine, before in pairs]
    bounds = () if quick else BOUNDS
    yield Figure("12", OURS, "CPU per flow", "µs", [mine for mine, _ in pairs])
    yield Figure("12", stage.against, "CPU per flow", "µs", [before for _, before in pairs])
    yield Figure(
        "12", OURS, f"CPU per flow ÷ CPU per flow of {stage.against}", "×", ratios, *bounds
    )


def _unpack(commit: str, folder: Path) -> None:
    """Write the files of a commit into a folder, without adding a worktree to the repository."""
    folder.mkdir()
    packed = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, "src"], check=True, capture_output=True
    ).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=packed, check=True)
