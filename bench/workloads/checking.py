"""The `check` command on ten thousand flows, and on a megabyte of invalid text."""

from __future__ import annotations

import random
import shutil
import string
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench.measure import NO_BOUNDS, Bounds, Figure
from bench.node import SHIPPED
from bench.stage import Stage
from bench.systems import RUNTIME_MANAGER

MEGABYTE = 1 << 20
ORIGINALS_FLOW_S_BOUNDS = Bounds(bound=2, aim=1)
INVALID_TEXT_S_BOUNDS = Bounds(bound=3, aim=2)
ORIGINALS_FLOW = """TO component1 1
POST payload
TO component2 1
POST result1
TO component3 1
POST result1 result2
"""
LONG_FLOW = """ON factory/+/frame
CRON "0 6 * * 1-5" Europe/Rome
DEADLINE 5s
LIMIT 4
TO component1 1
GET
  TIMEOUT 800ms
  RETRY 3 EVERY 100ms
  AS frame
TO component2 1
POST JSON {"image": frame.data, "line": payload.line}
  AS found
POST item.box
  FOREACH found.boxes
TO component3 1
POST found.box payload
  WHEN found.score > 0.8
  UNDO 2 result1
PUBLISH factory/alerts JSON {"box": found.box}
  WHEN found.score > 0.95 and status(found) == 200
"""


def measure(stage: Stage, *, quick: bool) -> Iterator[Figure]:
    """Measure the time from the start of the command to its end."""
    flows, rounds = (1_000, 1) if quick else (10_000, 5)
    for description, flow, bounds in (
        ("flows of the original's language", ORIGINALS_FLOW, ORIGINALS_FLOW_S_BOUNDS),
        ("flows with most of the keywords", LONG_FLOW, NO_BOUNDS),
    ):
        text = "\n".join(f"{number}\n{flow}" for number in range(flows))
        seconds, output = _check(stage, text, rounds)
        _, _, summary = output[-1].partition(" ")
        note = f"{len(text) / MEGABYTE:.1f} MiB; printed: {summary}"
        used_bounds = NO_BOUNDS if quick else bounds
        quantity = f"time of `fractal-rm check`: {flows:,} {description}"
        yield Figure("10", RUNTIME_MANAGER, quantity, "s", seconds, *used_bounds, note=note)
    for description, text in _invalid_texts():
        seconds, output = _check(stage, text, rounds)
        findings = sum(": error[" in line or ": warning[" in line for line in output)
        note = f"{findings:,} findings shown"
        quantity = f"time of `fractal-rm check`: 1 MiB of {description}"
        yield Figure(
            "10", RUNTIME_MANAGER, quantity, "s", seconds, *INVALID_TEXT_S_BOUNDS, note=note
        )


def _invalid_texts() -> Iterator[tuple[str, str]]:
    """Yield texts of about 1 MiB that are not flows, each with a description."""
    characters = "".join(random.Random(1).choices(string.printable, k=MEGABYTE))
    yield "random characters", characters
    yield "lines with a typo", "1\nTO component1 1\n" + "PSOT paylod\n" * (MEGABYTE // 12)
    yield "words in one line", "1\nTO component1 1\nPOST" + " paylod" * (MEGABYTE // 7)
    yield "quotes", "1\nTO component1 1\n" + 'POST "a\n' * (MEGABYTE // 8)


def _check(stage: Stage, text: str, rounds: int) -> tuple[list[float], list[str]]:
    """Check a configuration whose flows.conf has the text, several times.

    Returns the seconds of each round, and the output lines of the last round.
    """
    folder = _write_configuration(stage, text)
    seconds: list[float] = []
    output: list[str] = []
    for _ in range(rounds):
        began = time.perf_counter()
        command = [sys.executable, "-m", "fractal_rm.cli.main", "check", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        seconds.append(time.perf_counter() - began)
        output = done.stdout.splitlines()
    return seconds, output


def _write_configuration(stage: Stage, text: str) -> Path:
    """Copy the shipped configuration, and write the text as its flows.conf. Returns the folder."""
    folder = Path(stage.folder) / "checking"
    shutil.copytree(SHIPPED, folder, dirs_exist_ok=True)
    (folder / "flows.conf").write_text(text)
    return folder
