"""Measures the pages of a node with ten million runs: `python -m bench.pages`.

Generates a history that ends now (about two minutes, 2 GiB in a temporary folder), starts a node
with it, and requests each page several times. Prints the time until a page was read, and its bytes.

    python -m bench.pages --runs 1000000     fewer runs
    python -m bench.pages --keep /tmp/p      keeps the folder, and uses it again
"""

from __future__ import annotations

import argparse
import gzip
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from bench.history_questions import RUNS_PER_S, generate
from bench.stage import is_listening, wait_until

ROOT = Path(__file__).parents[1]
SHIPPED = ROOT / "runtime_manager" / "config_files"
HOST = "127.0.0.1"
ROUNDS = 7
START_LIMIT_S = 120
BOUND_MS, FIRST_BOUND_MS, FIRST_BOUND_BYTES = 200, 150, 60 * 1024
PAGES = [
    "", "flows", "flows/1", "runs", "runs?flow=7", "runs?flow=rare", "runs?state=failed",
    "runs?text=nowhere", "runs?component=component7", "runs?handled=false&state=failed",
    "runs?since=7d", "failures", "failures?since=30d", "dead", "components",
    "components/component1", "nodes", "config",
]  # fmt: skip


def main() -> int:
    """Print a line for each page. Returns the exit code: 1 if a bound was missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000_000)
    parser.add_argument("--keep", type=Path)
    options = parser.parse_args()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="pages-"))
    try:
        port = _prepare(folder, options.runs)
        with subprocess.Popen(
            [
                sys.executable,
                "-m",
                "fractal_rm.cli.main",
                "up",
                "--config",
                folder / "config_files",
            ],
            stdout=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        ) as node:
            try:
                wait_until(lambda: is_listening(port), START_LIMIT_S)
                return _measure(port)
            finally:
                node.terminate()
    finally:
        if options.keep is None:
            shutil.rmtree(folder)


def _prepare(folder: Path, runs: int) -> int:
    """Write the configuration and the history. Returns the port of the node."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    shutil.copytree(SHIPPED, folder / "config_files", dirs_exist_ok=True)
    path = folder / "config_files" / "comm.conf"
    comm = json.loads(path.read_text())
    comm["rest"]["port"] = port
    path.write_text(json.dumps(comm))
    journal = folder / "state" / "up.journal"
    if not journal.exists():
        journal.parent.mkdir(parents=True)
        start_ms = int(time.time() * 1000) - runs * 1000 // RUNS_PER_S
        generate(journal, runs, start_ms, open_state="cancelled")
    return port


def _read(port: int, path: str) -> tuple[int, bytes, float]:
    """The status of a page, its content, and the milliseconds until it was read."""
    connection = http.client.HTTPConnection(HOST, port, timeout=60)
    began = time.perf_counter()
    connection.request("GET", "/" + path)
    response = connection.getresponse()
    content = response.read()
    took_ms = (time.perf_counter() - began) * 1000
    connection.close()
    return response.status, content, took_ms


def _measure(port: int) -> int:
    status, content, took_ms = _read(port, "")
    print(f"the very first page, for which the pages are made: {took_ms:.0f} ms, status {status}")
    assets = re.findall(rb'(?:href|src)="\./(static/[^"]+)"', content)
    weight = len(content) + sum(
        len(gzip.compress(_read(port, each.decode())[1])) for each in assets
    )
    print(f"bytes of the overview with all that it loads: {weight:,} (bound {FIRST_BOUND_BYTES:,})")
    is_missed = weight > FIRST_BOUND_BYTES
    print(f"{'page':44} {'status':>6} {'median':>7} {'worst':>7} {'bytes':>8}")
    for page in PAGES:
        rounds = [_read(port, page) for _ in range(ROUNDS)]
        times = sorted(took for _, _, took in rounds)
        bound_ms = BOUND_MS if page else FIRST_BOUND_MS
        is_missed |= median(times) > bound_ms or rounds[0][0] != 200
        print(
            f"/{page:43} {rounds[0][0]:6} {median(times):7.1f} {times[-1]:7.1f}"
            f" {len(rounds[0][1]):8,}"
        )
    return int(is_missed)


if __name__ == "__main__":
    raise SystemExit(main())
