"""Nodes hand runs over to each other while their link is cut, they are killed, and restarted.

The nodes are on simulated machines (network namespaces), which needs root. Exits 1 if a run was
lost, executed on several nodes, or left open.

Two nodes hand over --runs runs each way, in two passes. In the first pass, node 1 recognizes its
peer by a token and node 2 by a certificate, and in the second the other way round. Then three
nodes, one of which runs an earlier release, are restarted in turn.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from links.load import Tally
from links.pair import cpu_s, joined_pair
from links.passes import make_pass
from links.restarts import EARLIER_COMMIT, has_earlier_release, restart_in_turn, three_sites
from links.verdict import Verdict, judge
from machines import Machine
from sites import FIRST, SECOND

PASSES = 2


def main() -> int:
    """Cut, kill and restart, and print the figures. Returns the exit code."""
    parser = argparse.ArgumentParser(
        "make links", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=10_000, help="runs each way")
    parser.add_argument("--cuts", type=int, default=50, help="cuts of the link")
    parser.add_argument("--kills", type=int, default=20, help="kills of each node")
    parser.add_argument("--seed", type=int, help="the seed of the random moments")
    parser.add_argument("--keep", type=Path, help="an empty folder, in which all files are kept")
    words = parser.parse_args()
    seed = random.randrange(1 << 32) if words.seed is None else words.seed
    if not has_earlier_release():
        print(f"commit {EARLIER_COMMIT} is missing: `git fetch --unshallow`")
        return 2
    try:
        machines = Machine(f"{FIRST}/24"), Machine(f"{SECOND}/24")
    except OSError as error:
        print(f"cannot make a network namespace: {error}. Only root may do this.")
        return 2
    with tempfile.TemporaryDirectory(prefix="links-") as temporary:
        folder = words.keep or Path(temporary)
        folder.mkdir(exist_ok=True)
        print(f"Two nodes, seed {seed}:", flush=True)
        verdict = _cut_and_kill(machines, folder, words, random.Random(seed))
        print("\nThree nodes, one of which runs an earlier release at first:", flush=True)
        restarted_verdict = _restart(folder)
    return 1 if verdict.problems or restarted_verdict.problems else 0


def _cut_and_kill(
    machines: tuple[Machine, Machine], folder: Path, words: argparse.Namespace, rng: random.Random
) -> Verdict:
    begin_s, begin_cpu_s = time.monotonic(), cpu_s()
    with joined_pair(machines, folder) as pair:
        tally = Tally(pair.sites)
        for number in range(PASSES):
            runs, cuts, kills = (
                _share(count, number) for count in (words.runs, words.cuts, words.kills)
            )
            make_pass(pair, tally, number=number, runs=runs, cuts=cuts, kills=kills, rng=rng)
        used_s, took_s = cpu_s() - begin_cpu_s, time.monotonic() - begin_s
        verdict = judge(pair.sites, tally)
    faults = {"cuts of the link": words.cuts, "kills of each node": words.kills}
    _print_table(verdict, tally, faults, took_s, used_s)
    return verdict


def _share(count: int, number: int) -> int:
    """The part of pass ``number``. The parts of all passes together are ``count``."""
    return count // PASSES + (number < count % PASSES)


def _restart(folder: Path) -> Verdict:
    begin_s, begin_cpu_s = time.monotonic(), cpu_s()
    with three_sites(folder) as sites:
        tally = Tally(sites)
        restarts = restart_in_turn(sites, tally)
        used_s, took_s = cpu_s() - begin_cpu_s, time.monotonic() - begin_s
        verdict = judge(sites, tally)
    _print_table(verdict, tally, {"restarts": restarts}, took_s, used_s)
    return verdict


def _print_table(
    verdict: Verdict, tally: Tally, faults: Mapping[str, int], took_s: float, used_s: float
) -> None:
    rows = {
        "acknowledged runs of each node": [len(each) for each in tally.acknowledged],
        "handed over by each node": verdict.handed_over,
        "executed by the node itself": verdict.run_here,
        **{name: [count] for name, count in faults.items()},
        "runs whose node was not known for a time": [verdict.in_doubt],
        "the longest such time, in s": [verdict.longest_doubt_s],
        "calls made again by the same node": [verdict.repeated],
        "duration, in s": [took_s],
        "CPU time of the nodes, in s": [used_s],
    }
    for name, values in rows.items():
        print(f"  {name:42}", *(f"{value:>10,.0f}" for value in values))
    for problem in verdict.problems:
        print(f"PROBLEM: {problem}")
    if not verdict.problems:
        print("No run was lost, executed on several nodes, or left open.", flush=True)


if __name__ == "__main__":
    sys.exit(main())
