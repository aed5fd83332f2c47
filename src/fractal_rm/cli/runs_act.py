"""`runs cancel`, `runs replay` and `runs discard`: act on runs, one or many."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.cli.act import Verb, act_on_runs, runs_argument, yes_option
from fractal_rm.cli.filter_options import filter_options
from fractal_rm.cli.options import config_option, json_option, state_of
from fractal_rm.domain.actions import Cancel, Definition, Discard, Replay
from fractal_rm.domain.run_filter import RunFilter

_ONLY_RUNS = RunFilter(dead_letters=False)
_CANCEL = Verb(
    "cancel", "cancelled",
    hint="to repeat them: `fractal-rm runs replay --state cancelled`, with the same conditions",
)  # fmt: skip
_REPEAT = Verb(
    "repeat", "repeated",
    effect="Their calls are made again, with the flow as it was when each run began."
    " --current-flow uses flows.conf as it is now.",
)  # fmt: skip
_REPEAT_CURRENT = Verb(
    "repeat", "repeated", effect="Their calls are made again, with the flow as it is in flows.conf."
)
_DISCARD = Verb("discard", "discarded", done="is marked as discarded")


@click.command("cancel")
@runs_argument
@click.option("--cut", is_flag=True, help="End the call in flight at once, not after its answer.")
@click.option("--no-undo", is_flag=True, help="Do not undo the finished steps.")
@filter_options
@yes_option
@config_option
@json_option
def cancel_runs(
    run_ids: tuple[str, ...], run_filter: RunFilter, folder: Path,
    *, cut: bool, no_undo: bool, yes: bool, as_json: bool,
) -> int:  # fmt: skip
    """End runs that have not ended yet.

    The runs are the RUNs, or all runs that match conditions: their number is shown first. A run
    that waits or is parked ends at once. A run in flight ends after its current step, and its
    finished steps are undone. With --cut, the current call is ended, and it is not known whether
    the component has done it.

    Exits 1 if a run was not cancelled. It is safe to repeat the command.
    """
    return act_on_runs(
        state_of(folder), run_ids, run_filter, _CANCEL,
        Cancel("", cut=cut, undo=not no_undo), yes=yes, as_json=as_json, scope=_ONLY_RUNS,
    )  # fmt: skip


@click.command("replay")
@runs_argument
@click.option(
    "--current-flow", is_flag=True, help="Use the flow of flows.conf, not that of the ended run."
)
@click.option(
    "--from-step",
    type=click.IntRange(min=1),
    metavar="N",
    help="Take the results of the earlier steps from the ended run.",
)
@click.option("--again", is_flag=True, help="Also a run that was repeated or discarded before.")
@filter_options
@yes_option
@config_option
@json_option
def replay_runs(
    run_ids: tuple[str, ...], run_filter: RunFilter, folder: Path,
    *, current_flow: bool, from_step: int | None, again: bool, yes: bool, as_json: bool,
) -> int:  # fmt: skip
    """Repeat ended runs as new runs, with the same payload. `runs repeat` is the same.

    The runs are the RUNs, or all runs in trouble that match conditions: their number is shown
    first. With --state, other runs are repeated, too, such as those that were cancelled. The ended
    run stays as it is, and the new run names it. Exits 1 if a run was not repeated.

    The new run has the flow as it was when the ended run began. After the flow was corrected in
    flows.conf, use --current-flow.
    """
    definition = Definition.CURRENT if current_flow else Definition.RECORDED
    return act_on_runs(
        state_of(folder), run_ids, run_filter, _REPEAT_CURRENT if current_flow else _REPEAT,
        Replay("", definition, from_step, again), yes=yes, as_json=as_json, scope=_ONLY_RUNS,
    )  # fmt: skip


@click.command("discard")
@runs_argument
@click.option("--note", metavar="TEXT", default="", help="Why; it is kept in the journal.")
@filter_options
@yes_option
@config_option
@json_option
def discard_runs(
    run_ids: tuple[str, ...], run_filter: RunFilter, folder: Path,
    *, note: str, yes: bool, as_json: bool,
) -> int:  # fmt: skip
    """Mark ended runs that need no more attention. They stay in the history.

    The runs are the RUNs, or all runs in trouble that match conditions: their number is shown
    first. With --state, other runs are marked, too. Exits 1 if a run was not marked.
    """
    return act_on_runs(
        state_of(folder), run_ids, run_filter, _DISCARD, Discard("", note),
        yes=yes, as_json=as_json, scope=_ONLY_RUNS,
    )  # fmt: skip
