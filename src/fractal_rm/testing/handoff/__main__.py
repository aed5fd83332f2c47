"""Explore all scenarios, and then the mistakes. ``--more N``: N more faults in each scenario."""

from __future__ import annotations

import argparse
import sys

from fractal_rm.testing.handoff.explore import explore, report
from fractal_rm.testing.handoff.rules import MISTAKES
from fractal_rm.testing.handoff.scenarios import FOUND_IN, SCENARIOS


def main() -> int:
    """Return 1 if a promise is broken, or if a mistake is not found."""
    parser = argparse.ArgumentParser(
        prog="python -m fractal_rm.testing.handoff", description=__doc__
    )
    parser.add_argument("--more", type=int, default=0, metavar="N", help="N more faults (slow)")
    more: int = parser.parse_args().more
    is_good = True
    for scenario in SCENARIOS:
        deeper = scenario.with_total(scenario.faults.total + more)
        show(f"{deeper.title}; at most {deeper.faults.total} faults")
        result = explore(deeper)
        report(result, show)
        is_good = is_good and not result.broken
    for mistake, rules in MISTAKES.items():
        show(f"deliberate mistake: {mistake}")
        result = explore(FOUND_IN[mistake], rules)
        report(result, show)
        is_good = is_good and bool(result.broken)
    show("Every promise holds, and every mistake was found." if is_good else "NOT as expected.")
    return 0 if is_good else 1


def show(line: str) -> None:
    """Write a line to the standard output at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
