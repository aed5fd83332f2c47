"""Names the calls in doubt of a run. A call is in doubt if it may have been made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from fractal_rm.domain.list_names import MAX_LISTED, list_names
from fractal_rm.domain.run import Run


def calls_in_doubt(run: Run) -> list[str]:
    """The names of the calls in doubt, in the order of the flow. Undos are not included."""
    calls = [name for name in run.progress.in_doubt or () if not name.startswith("undo.")]
    return sorted(calls, key=lambda name: [int(number) for number in name.split(".")])


def in_doubt_words(calls: Mapping[str, Sequence[str]], run_id: str) -> str:
    """A text that names calls in doubt, for the end of a reason. It is empty without such calls.

    ``calls`` has the calls of each run by its id: of the run ``run_id``, and of the runs that it
    started. At most MAX_LISTED runs, and calls of a run, are named. The journal has all of them.
    """
    parts = [
        f", and call {list_names(names)}"
        + ("" if each == run_id else f" of child run {each}")
        + " may have been made"
        for each, names in islice(calls.items(), MAX_LISTED)
    ]
    unnamed_runs = len(calls) - MAX_LISTED
    if unnamed_runs > 0:
        parts.append(f", and calls of {unnamed_runs:,} more child runs may have been made")
    return "".join(parts)
