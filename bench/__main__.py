"""Measures the speed and the CPU time of the Runtime Manager and of its peers on the same machine.

    make bench                      all workloads; updates bench/results and docs/explanation
    make bench QUICK=1              all workloads, with fewer triggers, in about five minutes
    make bench ONLY="1 8"           workloads 1 and 8
    make bench ONLY=12 AGAINST=main workload 12: compares this commit with the branch main

nginx, which simulates the components, and Mosquitto, the publisher and the measured system run on
this machine. So only ratios can be compared with figures of other machines. Systems are measured in
turns, and a figure is the median of several rounds.
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
    observed,
    paired,
    rates,
    rest_and_hand_off,
    restart,
    throughput,
)

MAX_TRIES = 3  # measurements of a round, at most, if other programs disturb it

WORKLOADS: dict[str, Callable[..., Iterator[Figure]]] = {
    "1": throughput.measure,
    "2": rates.measure,
    "3": backlog.measure,
    "4": in_flight.measure,
    "5": rest_and_hand_off.measure,
    "6": restart.measure,
    "7": history.measure,
    "8": idle.measure,
    "9": disk.measure,
    "10": checking.measure,
    "11": kill.measure,
    "12": paired.measure,
    "13": observed.measure_scrapes,
    "14": observed.measure_pages,
}


def main() -> int:
    """Measure the chosen workloads and print the figures. Without --quick, also save the figures.

    Returns the exit code: 1 if a figure misses its bound, else 0.
    """
    parser = argparse.ArgumentParser(prog="make bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer triggers: about five minutes")
    parser.add_argument("--only", nargs="*", choices=WORKLOADS, help="measure only these workloads")
    parser.add_argument("--against", help="for workload 12: the commit to compare with")
    arguments = parser.parse_args()
    # On SIGTERM, the context managers must stop the started processes. sys.exit lets them do so.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start_s = time.monotonic()
    all_figures: list[Figure] = []
    for number in arguments.only or WORKLOADS:
        figures = run_workload(number, arguments)
        if not arguments.quick and missing_bounds(figures):
            print(
                "   a figure misses its bound: the workload is measured twice more, and the"
                " medians of the three are saved",
                flush=True,
            )
            runs = [figures, run_workload(number, arguments), run_workload(number, arguments)]
            figures = report.merge_runs(runs)
            for figure in missing_bounds(figures):
                print(report.figure_line(figure), flush=True)
        all_figures += figures
    print(f"\nThe benchmark took {time.monotonic() - start_s:.0f} s.")
    if not arguments.quick:
        report.save(all_figures)
    return 1 if missing_bounds(all_figures) else 0


def run_workload(number: str, arguments: argparse.Namespace) -> list[Figure]:
    """Measure a workload, and print each figure as soon as it is known. Returns the figures."""
    measure, figures = WORKLOADS[number], []
    print(report.workload_heading(number, sys.modules[measure.__module__].__doc__), flush=True)
    max_tries = 1 if arguments.quick else MAX_TRIES
    with Stage(max_tries, arguments.against) as stage:
        for figure in measure(stage, quick=arguments.quick):
            figures.append(figure)
            print(report.figure_line(figure), flush=True)
    return figures


def missing_bounds(figures: list[Figure]) -> list[Figure]:
    """The figures that miss their bounds."""
    return [figure for figure in figures if figure.is_within(figure.bound) is False]


if __name__ == "__main__":
    sys.exit(main())
