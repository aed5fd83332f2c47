"""`runs list`: the newest runs that fulfil conditions."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.filter_options import filter_options
from fractal_rm.cli.options import (
    config_option,
    json_option,
    moment,
    print_json,
    print_table,
    state_of,
)
from fractal_rm.cli.safe_text import echo
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.engine.ports import Found, RunSummary

MAX_LISTED = 100_000
WITHIN_S = 5.0  # a person waits for the list


@click.command("list")
@filter_options
@click.option(
    "--limit",
    type=click.IntRange(1, MAX_LISTED),
    default=20,
    show_default=True,
    help="The maximum number of runs.",
)
@click.option("--oldest-first", is_flag=True, help="List the oldest runs instead of the newest.")
@click.option("--cursor", metavar="TEXT", help="Go on where a list with the same conditions ended.")
@config_option
@json_option
def list_runs(
    run_filter: RunFilter,
    limit: int,
    oldest_first: bool,
    cursor: str | None,
    folder: Path,
    as_json: bool,
) -> None:
    """List the newest runs of all journals of the node that fulfil all conditions.

    If few runs match, the search may end before it has read the whole history. Then the last line
    says how far it has searched, and how to go on.
    """
    found = SqliteHistory(state_of(folder)).find(
        run_filter, cursor=cursor, limit=limit, oldest_first=oldest_first, within_s=WITHIN_S
    )
    if as_json:
        print_json(found)
        return
    for damage in found.unreadable:
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
                _state(run),
                run.settled_ms - run.accepted_ms if run.settled_ms else "",
                run.reason,
            )
            for run in found.runs
        ],
        empty="no runs",
    )
    for line in way_on(found, oldest_first=oldest_first):
        echo(line, err=True)


def _state(run: RunSummary) -> str:
    if run.handled is None:
        return run.state.value
    return f"{run.state.value}, {'discarded' if run.handled.by_run is None else 'repeated'}"


def way_on(found: Found, *, oldest_first: bool = False) -> list[str]:
    """Return lines that say how far a search came, and how to go on. Empty: it has ended."""
    if found.next is None:
        return []
    searched = ""
    if found.searched_to_ms is not None:
        direction = "from the oldest run to" if oldest_first else "back to"
        searched = f"searched {direction} {moment(found.searched_to_ms)}; "
    return [f"{searched}go on with --cursor {found.next}"]
