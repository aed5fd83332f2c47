"""Name the calls in doubt of a run: the calls that may have been made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice

from fractal_rm.domain.list_names import MAX_LISTED, list_names
from fractal_rm.domain.run import Run


def calls_in_doubt(run: Run) -> list[str]:
    """The names of the calls in doubt of a run, without undos, in the order of the flow."""
    calls = [name for name in run.progress.in_doubt or () if not name.startswith("undo.")]
    return sorted(calls, key=lambda name: [int(number) for number in name.split(".")])


def in_doubt_words(calls: Mapping[str, Sequence[str]], run_id: str) -> str:
    """The end of a reason: a text that names calls in doubt, or an empty text.

    ``calls`` has the calls by id of their run: the run ``run_id``, and the runs that it started. At
    most MAX_LISTED runs and calls are named; the journal has all of them.
    """
    parts = [
        f", and call {list_names(names)}"
        + ("" if each == run_id else f" of child run {each}")
        + " may have been made"
        for each, names in islice(calls.items(), MAX_LISTED)
    ]
    more = len(calls) - MAX_LISTED
    if more > 0:
        parts.append(f", and calls of {more:,} more child runs may have been made")
    return "".join(parts)
