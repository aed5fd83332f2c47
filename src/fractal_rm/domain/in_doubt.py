"""Calls of which it is not known whether they were made, as the reason of a run names them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from fractal_rm.domain.named import MOST_NAMED, named
from fractal_rm.domain.run import Run


def calls_in_doubt(run: Run) -> list[str]:
    """By their names, in the order of the flow; an undo that fails is said by itself."""
    calls = [name for name in run.in_doubt or () if not name.startswith("undo.")]
    return sorted(calls, key=lambda name: [int(number) for number in name.split(".")])


def said_of(calls: Mapping[str, Sequence[str]], run_id: str) -> str:
    """What follows in the reason of a run; ``calls`` are its own and those of runs in it, by run.

    It names a few of the calls of a few runs: the journal has all of them.
    """
    said = [
        f", and call {named(names)} may have been"
        + ("" if each == run_id else f" in its run {each}")
        for each, names in islice(calls.items(), MOST_NAMED)
    ]
    more = len(calls) - MOST_NAMED
    if more > 0:
        said.append(f", and calls may have been in {more:,} more of its runs")
    return "".join(said)
