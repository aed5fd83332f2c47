"""`audit`: compare the numbers of triggers and runs, to show that no run is missing."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fractal_rm.adapters.sqlite import SqliteHistory, open_runs_of
from fractal_rm.adapters.sqlite.check import log_problems
from fractal_rm.adapters.sqlite.read.history import Losses
from fractal_rm.adapters.sqlite.read.snapshot import journals_in
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import config_option, json_option, print_json, print_table, state_of
from fractal_rm.cli.safe_text import echo
from fractal_rm.config.unhandled_runs import read_unhandled_runs
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import FlowCounts

MAX_UNHANDLED_SHOWN = 20  # unhandled runs of one journal


class CannotRead(FractalError):
    """A file in the state folder is damaged."""

    code = "cannot-read"


class FlowAudit(msgspec.Struct):
    """The counts of one flow. ``counts_match``: whether each received trigger has a run.

    ``repeated``: how many of the received ones operators have asked for: they repeat other runs.
    """

    flow: str | None
    received: int
    states: dict[str, int]
    duplicates: int
    maybe_twice: int
    repeated: int
    counts_match: bool = msgspec.field(name="balanced")


@click.command()
@config_option
@json_option
def audit(folder: Path, as_json: bool) -> int:
    """Show that no run is missing.

    For each flow, the number of received triggers must be the number of runs plus duplicates. A
    duplicate is a trigger that was answered with an existing run. Runs that repeat other runs
    count as received, and once more in the column "repeated". The column "maybe twice" counts
    runs that another node may have executed, too, because that node did not answer an offer.

    Exits 1 if counts do not match, if a log is damaged, or if a running node has found an open run
    that no process handles. The command also shows what earlier repairs have lost; this does not
    change the exit code.
    """
    state = state_of(folder)
    history = SqliteHistory(state)
    accounts = [_audit_flow(counts) for counts in history.flow_counts()]
    damage = {path.stem: texts for path in journals_in(state) if (texts := log_problems(path))}
    losses = history.losses()
    unhandled = _unhandled_runs(state)
    counts_match = all(account.counts_match for account in accounts)
    if as_json:
        ids = [run_id for run_ids in unhandled.values() for run_id in run_ids]
        print_json({
            "balanced": counts_match, "accounts": accounts, "uncarried": ids, "damaged": damage,
            "lost": losses,
        })  # fmt: skip
    else:
        _print_accounts(accounts)
        if not counts_match or damage:
            echo("`fractal-rm journal check` shows the problems")
        _print_losses(losses)
        _print_unhandled(unhandled)
    no_problems = counts_match and not damage and not any(unhandled.values())
    return 0 if no_problems else EXIT_PROBLEMS


def _audit_flow(counts: FlowCounts) -> FlowAudit:
    states = {state.value: count for state, count in counts.states.items()}
    received = counts.received + counts.duplicates
    match = sum(states.values()) == counts.received
    return FlowAudit(
        counts.flow, received, states, counts.duplicates, counts.maybe_twice, counts.repeated, match
    )


def _print_accounts(accounts: list[FlowAudit]) -> None:
    states = [s for s in State if any(account.states.get(s.value) for account in accounts)]
    print_table(
        (
            "flow",
            "received",
            "repeated",
            *(s.value for s in states),
            "duplicate",
            "maybe twice",
            "match",
        ),
        [
            (
                account.flow or "(none)",
                account.received,
                account.repeated,
                *(account.states.get(s.value, 0) for s in states),
                account.duplicates,
                account.maybe_twice,
                "yes" if account.counts_match else "NO",
            )
            for account in accounts
        ],
        empty="no runs yet",
    )


def _print_losses(losses_by_journal: dict[str, Losses]) -> None:
    for name, losses in losses_by_journal.items():
        echo(
            f"{name}: repairs found that {losses.places} parts of its log were lost, so that"
            f" {losses.runs} runs lack facts"
        )


def _print_unhandled(unhandled: dict[str, list[str]]) -> None:
    for name, run_ids in unhandled.items():
        for run_id in run_ids[:MAX_UNHANDLED_SHOWN]:
            advice = f"restart its node (`fractal-rm {name}`) to continue the run"
            echo(f"run {run_id} is not handled: {advice}")
        hidden_count = len(run_ids) - MAX_UNHANDLED_SHOWN
        if hidden_count > 0:
            echo(f"and {hidden_count:,} more runs of {name}: --json lists all of them")


def _unhandled_runs(state: Path) -> dict[str, list[str]]:
    """For each journal, return the ids of the open runs that its node has reported as unhandled."""
    unhandled: dict[str, list[str]] = {}
    for path in journals_in(state):
        if reported_ids := _reported_ids(state, path.stem):
            open_ids = set(open_runs_of(path))
            unhandled[path.stem] = [run_id for run_id in reported_ids if run_id in open_ids]
    return unhandled


def _reported_ids(state: Path, journal: str) -> list[str]:
    try:
        return read_unhandled_runs(state, journal)
    except Malformed as error:
        raise CannotRead(
            f"the file of unhandled runs of {journal}.journal is damaged: {error}"
        ) from None
