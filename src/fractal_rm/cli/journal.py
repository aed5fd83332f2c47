"""`journal check` and `audit`: whether what is on the disk holds, and the accounts balance."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fractal_rm.adapters.sqlite import SqliteHistory, open_runs_of
from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.check_log import log_problems
from fractal_rm.adapters.sqlite.history import journals_in
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.cli.main import EXIT_NOT_WELL
from fractal_rm.cli.options import config_option, json_option, print_json, print_table, state_of
from fractal_rm.config.uncarried import read_uncarried
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Ledger

SHOWN = 20  # runs of a journal that nobody carries


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
    reports = [check_journal(path) for path in journals_in(state)]
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


@journal.command("repair")
@config_option
@json_option
def repair_journals(folder: Path, as_json: bool) -> int:
    """Make the damaged journals of the node again, of what can be read.

    What is well is left as it is. The damaged file is kept beside the new one, and so is its log.
    Exits 1 where something is gone. Not while a process of the node runs.
    """
    state = state_of(folder)
    broken = [path for path in journals_in(state) if check_journal(path).problems]
    reports = [repair(path) for path in broken]
    if as_json:
        print_json({"journals": reports})
    elif not reports:
        click.echo("all is well, and was left as it is")
    for report in () if as_json else reports:
        click.echo(
            f"{report.journal}: made again with {report.runs} runs, {report.rebuilt} of them of"
            f" their facts alone; the damaged file is {report.kept_as}"
            + (f", its log {report.log_kept_as}" if report.log_kept_as else "")
            + (f", blobs that no run has {report.blobs_kept_as}" if report.blobs_kept_as else "")
        )
        for what in report.gone:
            click.echo(f"  gone: {what}")
    return EXIT_NOT_WELL if any(report.gone for report in reports) else 0


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
    executed as well. Exits 1 where an account does not balance, where the log is damaged, or where
    a running node has found that nobody carries an open run: one of its own, or one that it could
    not take over. What repairs could not bring over is said, and is in no account.
    """
    state = state_of(folder)
    history = SqliteHistory(state)
    accounts = [_account(ledger) for ledger in history.ledger()]
    damage = {path.stem: found for path in journals_in(state) if (found := log_problems(path))}
    lost = history.losses()
    balanced = all(account.balanced for account in accounts)
    uncarried = _uncarried(state)
    if as_json:
        ids = [run_id for run_ids in uncarried.values() for run_id in run_ids]
        print_json({
            "balanced": balanced, "accounts": accounts, "uncarried": ids, "damaged": damage,
            "lost": lost,
        })  # fmt: skip
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
        if not balanced or damage:
            click.echo("`fractal-rm journal check` names what does not hold")
        for name, losses in lost.items():
            click.echo(
                f"{name}: repairs found {losses.places} places of its log gone: what came in them"
                f" is in no account, and {losses.runs} runs are not whole"
            )
        for name, run_ids in uncarried.items():
            _say_uncarried(name, run_ids)
    well = balanced and not damage and not any(uncarried.values())
    return 0 if well else EXIT_NOT_WELL


def _say_uncarried(name: str, run_ids: list[str]) -> None:
    for run_id in run_ids[:SHOWN]:
        cure = f"restart its node (`fractal-rm {name}`), which takes it up"
        click.echo(f"run {run_id} is carried by nobody: {cure}")
    if len(run_ids) > SHOWN:
        click.echo(f"and {len(run_ids) - SHOWN:,} more runs of {name}: --json names them all")


def _uncarried(state: Path) -> dict[str, list[str]]:
    """For each journal, its open runs of which a node says that nobody carries them."""
    found: dict[str, list[str]] = {}
    for path in journals_in(state):
        if named := _named(state, path.stem):
            still_open = set(open_runs_of(path))
            found[path.stem] = [run_id for run_id in named if run_id in still_open]
    return found


def _named(state: Path, journal: str) -> list[str]:
    try:
        return read_uncarried(state, journal)
    except Malformed as error:
        raise CannotRead(
            f"what the node of {journal}.journal says of it is broken: {error}"
        ) from None


class CannotRead(FractalError):
    """A file of the state folder is not what the node has written."""

    code = "cannot-read"


def _account(ledger: Ledger) -> Account:
    states = {state.value: count for state, count in ledger.states.items()}
    received = ledger.received + ledger.duplicates
    balanced = sum(states.values()) == ledger.received
    return Account(ledger.flow, received, states, ledger.duplicates, ledger.maybe_twice, balanced)
