"""Measures the speed and the CPU time of the Runtime Manager and of its peers on the same machine.

    make bench              everything, into bench/results and docs/explanation
    make bench QUICK=1      a small version of everything, in about five minutes
    make bench ONLY="1 8"   some workloads
    make bench AGAINST=main with workload 12: this commit and another, in turns

nginx (the components), Mosquitto, the load and the measured system share this machine. So only
ratios can be compared with other machines. Systems are measured in turns, and a figure is the
median of several rounds.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Callable, Iterator

from bench import report
from bench.measure import Figure
from bench.stage import Stage
from bench.workloads import (
    backlog,
    checking,
    disk,
    history,
    idle,
    in_flight,
    kill,
    paired,
    rates,
    restart,
    throughput,
    ways,
)

MAX_TRIES = 3  # how often a round is measured if other programs disturb it

WORKLOADS: dict[str, Callable[..., Iterator[Figure]]] = {
    "1": throughput.measure,
    "2": rates.measure,
    "3": backlog.measure,
    "4": in_flight.measure,
    "5": ways.measure,
    "6": restart.measure,
    "7": history.measure,
    "8": idle.measure,
    "9": disk.measure,
    "10": checking.measure,
    "11": kill.measure,
    "12": paired.measure,
}


def main() -> int:
    """Measure and print; save the figures of a full run. Returns 1 if a figure misses its bound."""
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="small, in about five minutes")
    parser.add_argument("--only", nargs="*", choices=WORKLOADS, help="these workloads")
    parser.add_argument("--against", help="another commit, for workload 12")
    chosen = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # context managers end what was started
    began = time.monotonic()
    found: list[Figure] = []
    for number in chosen.only or WORKLOADS:
        figures = run(number, chosen)
        if not chosen.quick and missed(figures):
            print("   a bound is missed: two more runs, and the median counts", flush=True)
            runs = [figures, run(number, chosen), run(number, chosen)]
            figures = report.merge_runs(runs)
            for figure in missed(figures):
                print(report.line(figure), flush=True)
        found += figures
    print(f"\n{time.monotonic() - began:.0f} s")
    if not chosen.quick:
        report.save(found)
    return 1 if missed(found) else 0


def run(number: str, chosen: argparse.Namespace) -> list[Figure]:
    """Measure a workload, and print each figure at once."""
    measure, found = WORKLOADS[number], []
    print(report.heading(number, sys.modules[measure.__module__].__doc__), flush=True)
    with Stage(1 if chosen.quick else MAX_TRIES, chosen.against) as stage:
        for figure in measure(stage, quick=chosen.quick):
            found.append(figure)
            print(report.line(figure), flush=True)
    return found


def missed(figures: list[Figure]) -> list[Figure]:
    """The figures that miss their bounds."""
    return [figure for figure in figures if figure.holds(figure.at_least) is False]


if __name__ == "__main__":
    sys.exit(main())
