"""`audit`: count triggers and runs, to show that no run is missing."""

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
from fractal_rm.config.unhandled_runs import read_unhandled_runs
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import FlowCounts

MAX_UNHANDLED_SHOWN = 20  # of each journal


class CannotRead(FractalError):
    """A file in the state folder is not as the node writes it."""

    code = "cannot-read"


class Account(msgspec.Struct):
    """The counts of one flow; ``balanced`` if its received triggers and its runs match."""

    flow: str | None
    received: int
    states: dict[str, int]
    duplicates: int
    maybe_twice: int
    balanced: bool


@click.command()
@config_option
@json_option
def audit(folder: Path, as_json: bool) -> int:
    """Show that no run is missing.

    For each flow, the number of received triggers must match the number of runs and duplicates.
    Triggers are counted from the accepted facts, runs by their state; duplicates were answered
    with an existing run. "maybe twice" are runs that another node may have executed too, as it did
    not answer an offer.

    Exits 1 if counts do not match, if the log is damaged, or if a running node has found an open
    run that it does not handle. What repairs found lost is shown, but not counted.
    """
    state = state_of(folder)
    history = SqliteHistory(state)
    accounts = [_account(counts) for counts in history.flow_counts()]
    damage = {path.stem: found for path in journals_in(state) if (found := log_problems(path))}
    lost = history.losses()
    unhandled = _unhandled_runs(state)
    counts_match = all(account.balanced for account in accounts)
    if as_json:
        ids = [run_id for run_ids in unhandled.values() for run_id in run_ids]
        print_json({
            "balanced": counts_match, "accounts": accounts, "uncarried": ids, "damaged": damage,
            "lost": lost,
        })  # fmt: skip
    else:
        _print_accounts(accounts)
        if not counts_match or damage:
            click.echo("`fractal-rm journal check` shows the problems")
        _print_losses(lost)
        _print_unhandled(unhandled)
    well = counts_match and not damage and not any(unhandled.values())
    return 0 if well else EXIT_PROBLEMS


def _account(counts: FlowCounts) -> Account:
    states = {state.value: count for state, count in counts.states.items()}
    received = counts.received + counts.duplicates
    balanced = sum(states.values()) == counts.received
    return Account(counts.flow, received, states, counts.duplicates, counts.maybe_twice, balanced)


def _print_accounts(accounts: list[Account]) -> None:
    shown = [s for s in State if any(account.states.get(s.value) for account in accounts)]
    print_table(
        ("flow", "received", *(s.value for s in shown), "duplicate", "maybe twice", "match"),
        [
            (
                account.flow or "(none)",
                account.received,
                *(account.states.get(s.value, 0) for s in shown),
                account.duplicates,
                account.maybe_twice,
                "yes" if account.balanced else "NO",
            )
            for account in accounts
        ],
        empty="no runs yet",
    )


def _print_losses(lost: dict[str, Losses]) -> None:
    for name, losses in lost.items():
        click.echo(
            f"{name}: repairs found {losses.places} lost parts of its log, which are not counted;"
            f" {losses.runs} runs lack facts"
        )


def _print_unhandled(unhandled: dict[str, list[str]]) -> None:
    for name, run_ids in unhandled.items():
        for run_id in run_ids[:MAX_UNHANDLED_SHOWN]:
            cure = f"restart its node (`fractal-rm {name}`) to continue it"
            click.echo(f"run {run_id} is not handled: {cure}")
        more = len(run_ids) - MAX_UNHANDLED_SHOWN
        if more > 0:
            click.echo(f"and {more:,} more runs of {name}: --json lists them all")


def _unhandled_runs(state: Path) -> dict[str, list[str]]:
    """For each journal, its open runs that a node has reported as unhandled."""
    found: dict[str, list[str]] = {}
    for path in journals_in(state):
        if reported := _reported(state, path.stem):
            still_open = set(open_runs_of(path))
            found[path.stem] = [run_id for run_id in reported if run_id in still_open]
    return found


def _reported(state: Path, journal: str) -> list[str]:
    try:
        return read_unhandled_runs(state, journal)
    except Malformed as error:
        raise CannotRead(
            f"the file of unhandled runs of {journal}.journal is damaged: {error}"
        ) from None
