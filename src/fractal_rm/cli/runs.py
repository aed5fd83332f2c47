"""`runs`: list runs, or show one run with its facts."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.options import (
    config_option,
    json_option,
    moment,
    print_json,
    print_table,
    state_of,
)
from fractal_rm.cli.runs_act import cancel_runs, discard_runs, replay_runs
from fractal_rm.cli.runs_record import record_run
from fractal_rm.cli.runs_resolve import resolve_run
from fractal_rm.cli.runs_show import show_run
from fractal_rm.cli.runs_wait import wait_runs
from fractal_rm.cli.runs_why import why_run
from fractal_rm.cli.safe_text import echo
from fractal_rm.domain.state import State

MAX_LISTED = 100_000
_STATES = [state.value for state in State if state is not State.NEW]


@click.group()
def runs() -> None:
    """List runs, show and explain a run, act on runs, or write a test case from a run."""


runs.add_command(cancel_runs)
runs.add_command(discard_runs)
runs.add_command(replay_runs)
runs.add_command(record_run)
runs.add_command(resolve_run)
runs.add_command(show_run)
runs.add_command(why_run)
runs.add_command(wait_runs)


@runs.command("list")
@click.option("--state", type=click.Choice(_STATES), help="Only runs in this state.")
@click.option("--flow", metavar="ID", help="Only runs of this flow.")
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LISTED),
    default=20,
    show_default=True,
    help="The maximum number of runs.",
)
@click.option("--before", metavar="RUN", help="Only runs older than this run.")
@config_option
@json_option
def list_runs(
    state: str | None, flow: str | None, limit: int, before: str | None, folder: Path, as_json: bool
) -> None:
    """List the newest runs of all journals of the node."""
    history = SqliteHistory(state_of(folder))
    page = history.page(
        state=State(state) if state else None, flow=flow, limit=limit, before=before
    )
    if as_json:
        print_json({"runs": page.runs, "unreadable": page.unreadable})
        return
    for damage in page.unreadable:
        echo(f"some runs are not listed: {damage}", err=True)
    print_table(
        ("run", "accepted", "flow", "by", "where", "state", "ms", "why"),
        [
            (
                run.id,
                moment(run.accepted_ms),
                run.flow or "-",
                run.source,
                f"node {run.node}" if run.node else "here",
                run.state.value,
                run.settled_ms - run.accepted_ms if run.settled_ms else "",
                run.reason,
            )
            for run in page.runs
        ],
        empty="no runs",
    )
