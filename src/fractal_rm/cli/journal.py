"""`journal check`, `journal repair` and `audit`."""

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
from fractal_rm.domain.errors import FractalError, Malformed
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import Ledger

SHOWN = 20  # unhandled runs of a journal


@click.group()
def journal() -> None:
    """Check and repair the journals."""


@journal.command("check")
@config_option
@json_option
def check(folder: Path, as_json: bool) -> int:
    """Verify every fact in every journal of the node, also while the node runs.

    Exits 1 if there is damage.
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
            f"{report.journal}: {'DAMAGED' if report.problems else 'OK'}, {report.runs} runs"
            f" ({report.open_runs} unfinished), {report.facts} facts"
        )
        for problem in report.problems:
            click.echo(f"  {problem}")
    return 0 if well else EXIT_NOT_WELL


@journal.command("repair")
@config_option
@json_option
def repair_journals(folder: Path, as_json: bool) -> int:
    """Rebuild the damaged journals of the node from everything that can be read.

    Journals without damage are not changed. The damaged file is kept under another name, and so is
    its log. Exits 1 if something is lost. The node must not run meanwhile.
    """
    state = state_of(folder)
    broken = [path for path in journals_in(state) if check_journal(path).problems]
    reports = [repair(path) for path in broken]
    if as_json:
        print_json({"journals": reports})
    elif not reports:
        click.echo("no journal is damaged; nothing was changed")
    for report in () if as_json else reports:
        click.echo(
            f"{report.journal}: rebuilt with {report.runs} runs, {report.rebuilt} of them from"
            f" their facts only; the damaged file is kept as {report.kept_as}"
            + (f", its log as {report.log_kept_as}" if report.log_kept_as else "")
            + (f", blobs without a run as {report.blobs_kept_as}" if report.blobs_kept_as else "")
        )
        for what in report.gone:
            click.echo(f"  gone: {what}")
    return EXIT_NOT_WELL if any(report.gone for report in reports) else 0


class Account(msgspec.Struct):
    """The triggers of one flow: how many were received, and the states of their runs."""

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

    For each flow, the number of accepted triggers (from the facts) must match the number of runs in
    all states. Duplicates were answered with the run of the first trigger. "maybe twice" counts
    runs that another node may have executed too, as it did not answer an offer.

    Exits 1 if counts do not match, if the log is damaged, or if a running node has reported an open
    run that no process handles: its own, or one that it could not take over. Losses of earlier
    repairs are listed, and are in no count.
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
            click.echo("`fractal-rm journal check` lists the damage")
        for name, losses in lost.items():
            click.echo(
                f"{name}: {losses.places} gaps in its log were found by repairs: triggers in them"
                f" are not counted, and {losses.runs} runs are incomplete"
            )
        for name, run_ids in uncarried.items():
            _print_uncarried(name, run_ids)
    well = balanced and not damage and not any(uncarried.values())
    return 0 if well else EXIT_NOT_WELL


def _print_uncarried(name: str, run_ids: list[str]) -> None:
    for run_id in run_ids[:SHOWN]:
        cure = f"restart its node (`fractal-rm {name}`), which resumes it"
        click.echo(f"run {run_id} is carried by nobody: {cure}")
    if len(run_ids) > SHOWN:
        click.echo(f"and {len(run_ids) - SHOWN:,} more runs of {name}: --json names them all")


def _uncarried(state: Path) -> dict[str, list[str]]:
    """For each journal, its open runs that no process handles, as reported by a node."""
    found: dict[str, list[str]] = {}
    for path in journals_in(state):
        if reported := _reported(state, path.stem):
            still_open = set(open_runs_of(path))
            found[path.stem] = [run_id for run_id in reported if run_id in still_open]
    return found


def _reported(state: Path, journal: str) -> list[str]:
    try:
        return read_uncarried(state, journal)
    except Malformed as error:
        raise CannotRead(
            f"the report of the node of {journal}.journal cannot be read: {error}"
        ) from None


class CannotRead(FractalError):
    """A file in the state folder has invalid content."""

    code = "cannot-read"


def _account(ledger: Ledger) -> Account:
    states = {state.value: count for state, count in ledger.states.items()}
    received = ledger.received + ledger.duplicates
    balanced = sum(states.values()) == ledger.received
    return Account(ledger.flow, received, states, ledger.duplicates, ledger.maybe_twice, balanced)
