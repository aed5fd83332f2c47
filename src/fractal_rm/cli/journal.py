"""`journal check` and `audit`: whether what is on the disk holds, and the accounts balance."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fractal_rm.adapters.sqlite import SqliteHistory, check_journal
from fractal_rm.cli.main import EXIT_NOT_WELL
from fractal_rm.cli.options import config_option, json_option, print_json, print_table, state_of
from fractal_rm.domain.run import State
from fractal_rm.engine.ports import Ledger


@click.group()
def journal() -> None:
    """Look after the journals."""


@journal.command("check")
@config_option
@json_option
def check(folder: Path, as_json: bool) -> int:
    """Verify every fact of every journal of the node; it may run meanwhile.

    Exits 1 where something does not hold.
    """
    state = state_of(folder)
    reports = [check_journal(path) for path in sorted(state.glob("*.journal"))]
    well = not any(report.problems for report in reports)
    if as_json:
        print_json({"well": well, "journals": reports})
        return 0 if well else EXIT_NOT_WELL
    if not reports:
        click.echo(f"{state} has no journals")
    for report in reports:
        click.echo(
            f"{report.journal}: {'well' if not report.problems else 'DAMAGED'}, {report.runs} runs"
            f" ({report.open_runs} unfinished), {report.facts} facts"
        )
        for problem in report.problems:
            click.echo(f"  {problem}")
    return 0 if well else EXIT_NOT_WELL


class Account(msgspec.Struct):
    """One flow's account: what was received, and where it is now."""

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
    """Prove that no run is missing.

    For each flow, what was received must be accounted for. Received triggers are counted from
    the accepted facts, states from the runs; duplicates were answered with the run that they
    repeat. Counted besides: runs that another node, which did not answer an offer, may have
    executed as well. Exits 1 where an account does not balance.
    """
    history = SqliteHistory(state_of(folder))
    accounts = [_account(ledger) for ledger in history.ledger()]
    balanced = all(account.balanced for account in accounts)
    if as_json:
        print_json({"balanced": balanced, "accounts": accounts})
    else:
        shown = [s for s in State if any(account.states.get(s.value) for account in accounts)]
        print_table(
            ("flow", "received", *(s.value for s in shown), "duplicate", "maybe twice", "balanced"),
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
    return 0 if balanced else EXIT_NOT_WELL


def _account(ledger: Ledger) -> Account:
    states = {state.value: count for state, count in ledger.states.items()}
    received = ledger.received + ledger.duplicates
    balanced = sum(states.values()) == ledger.received
    return Account(ledger.flow, received, states, ledger.duplicates, ledger.maybe_twice, balanced)
