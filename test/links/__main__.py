"""Two nodes hand runs over to each other while their link is cut and they are killed.

The nodes are on two simulated machines (network namespaces), which needs root. There are two
passes: in the first, node 1 recognizes its peer by a token and node 2 by a certificate, and in the
second the other way round. Exits 1 if a run was lost, executed on two nodes, or left open.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from links.load import Tally
from links.pair import cpu_s, joined_pair
from links.passes import make_pass
from links.verdict import Verdict, judge
from machines import Machine

PASSES = 2


def main() -> int:
    """Make the passes, and print the figures. Returns the exit code."""
    parser = argparse.ArgumentParser(prog="make links", description=__doc__)
    parser.add_argument("--runs", type=int, default=10_000, help="runs each way")
    parser.add_argument("--cuts", type=int, default=50, help="cuts of the link")
    parser.add_argument("--kills", type=int, default=20, help="kills of each node")
    parser.add_argument("--seed", type=int, help="seed of the random moments")
    parser.add_argument("--keep", type=Path, help="a folder for the files, which are then kept")
    words = parser.parse_args()
    seed = random.randrange(1 << 32) if words.seed is None else words.seed
    print(f"seed {seed}", flush=True)
    try:
        machines = Machine("10.177.0.1/24"), Machine("10.177.0.2/24")
    except OSError as error:
        print(f"cannot make a network namespace: {error}. Only root may do this.")
        return 2
    with tempfile.TemporaryDirectory(prefix="links-") as temporary:
        folder = words.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        begin_s = time.monotonic()
        with joined_pair(machines, folder) as pair:
            tally, rng, begin_cpu_s = Tally(pair), random.Random(seed), cpu_s()
            for number in range(PASSES):
                make_pass(
                    pair, tally, number=number, rng=rng,
                    **{name: _share(getattr(words, name), number)
                       for name in ("runs", "cuts", "kills")},
                )  # fmt: skip
            used_cpu_s = cpu_s() - begin_cpu_s
            took_s = time.monotonic() - begin_s
            verdict = judge(pair, tally)
    acknowledged = sum(len(each) for each in tally.acknowledged)
    _print_table(words, verdict, acknowledged, took_s, used_cpu_s)
    return 1 if verdict.problems else 0


def _share(count: int, number: int) -> int:
    """The part of pass ``number``. The parts of all passes together are ``count``."""
    return count // PASSES + (number < count % PASSES)


def _print_table(
    words: argparse.Namespace, verdict: Verdict, acknowledged: int, took_s: float, used_s: float
) -> None:
    first, second = verdict.handed_over
    here_first, here_second = verdict.run_here
    rows = {
        "acknowledged runs": f"{acknowledged:,}",
        "handed over, 1 to 2 and 2 to 1": f"{first:,} and {second:,}",
        "executed by the node itself": f"{here_first:,} and {here_second:,}",
        "cuts of the link": str(words.cuts),
        "kills of each node": str(words.kills),
        "runs in doubt": f"{verdict.in_doubt:,}, at most {verdict.longest_doubt_s:.1f} s",
        "calls repeated by the same node": f"{verdict.repeated:,}",
        "duration": f"{took_s:.0f} s",
        "CPU time of both nodes": f"{used_s:.0f} s",
    }
    for name, value in rows.items():
        print(f"{name:32} {value}")
    for problem in verdict.problems:
        print(f"PROBLEM: {problem}")
    if not verdict.problems:
        print("No run was lost, executed on two nodes, or left open.")


if __name__ == "__main__":
    sys.exit(main())
