"""`journal`: verify the journals of a node, or repair them."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.adapters.sqlite.check import check_journal
from fractal_rm.adapters.sqlite.read.snapshot import journals_in
from fractal_rm.adapters.sqlite.repair import repair
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import config_option, json_option, print_json, state_of
from fractal_rm.cli.safe_text import echo


@click.group()
def journal() -> None:
    """Verify or repair the journals."""


@journal.command("check")
@config_option
@json_option
def check(folder: Path, as_json: bool) -> int:
    """Verify every row and fact of every journal of the node.

    The node may be running. Exits 1 if there is a problem.
    """
    state = state_of(folder)
    reports = [check_journal(path) for path in journals_in(state)]
    exit_code = EXIT_PROBLEMS if any(report.problems for report in reports) else 0
    if as_json:
        print_json({"well": exit_code == 0, "journals": reports})
        return exit_code
    if not reports:
        echo(f"{state} has no journals")
    for report in reports:
        echo(
            f"{report.journal}: {'DAMAGED' if report.problems else 'OK'}, {report.runs} runs"
            f" ({report.open_runs} unfinished), {report.facts} facts"
        )
        for problem in report.problems:
            echo(f"  {problem}")
    return exit_code


@journal.command("repair")
@config_option
@json_option
def repair_journals(folder: Path, as_json: bool) -> int:
    """Rebuild the damaged journals of the node from what can be read.

    Stop the node first. Journals without damage are not changed. The damaged files are kept next to
    the new files. Exits 1 if anything was lost.
    """
    state = state_of(folder)
    damaged = [path for path in journals_in(state) if check_journal(path).problems]
    reports = [repair(path) for path in damaged]
    if as_json:
        print_json({"journals": reports})
    elif not reports:
        echo("no journal is damaged; nothing was changed")
    for report in () if as_json else reports:
        echo(
            f"{report.journal}: rebuilt with {report.runs} runs, {report.rebuilt} of them from"
            f" their facts alone; the damaged file is kept as {report.kept_as}"
            + (f", its log as {report.log_kept_as}" if report.log_kept_as else "")
            + (f", unused blobs as {report.blobs_kept_as}" if report.blobs_kept_as else "")
        )
        for item in report.lost:
            echo(f"  lost: {item}")
    return EXIT_PROBLEMS if any(report.lost for report in reports) else 0
