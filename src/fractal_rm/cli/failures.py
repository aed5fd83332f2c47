"""`failures`: runs in trouble, grouped by what went wrong."""

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

WITHIN_S = 5.0  # a person waits for the list


@click.command("failures")
@filter_options
@click.option(
    "--limit", type=click.IntRange(1, 10_000), default=20, show_default=True,
    help="The maximum number of groups.",
)  # fmt: skip
@config_option
@json_option
def failures(run_filter: RunFilter, limit: int, folder: Path, as_json: bool) -> None:
    """Group the runs in trouble by what went wrong: the group that has the newest run first.

    Runs in trouble ended as failed, unknown, dead or expired. A group has the same state, flow,
    component, cause and reason; numbers in the reason are left out.
    """
    found = SqliteHistory(state_of(folder)).failures(run_filter, within_s=WITHIN_S)
    if as_json:
        print_json(found)
        return
    for damage in found.unreadable:
        echo(f"some runs are not counted: {damage}", err=True)
    print_table(
        ("runs", "first", "last", "flow", "state", "component", "cause", "why", "newest run"),
        [
            (
                group.count,
                moment(group.first_ms),
                moment(group.last_ms),
                group.flow or "-",
                group.state.value,
                group.component or "-",
                group.cause or "-",
                group.shape,
                group.newest,
            )
            for group in found.groups[:limit]
        ],
        empty="no runs in trouble",
    )
    if len(found.groups) > limit:
        echo(f"{len(found.groups) - limit:,} more groups: --limit {len(found.groups)}", err=True)
    if found.searched_to_ms is not None:
        echo(f"counted back to {moment(found.searched_to_ms)}; older runs are left out", err=True)
    if found.groups:
        echo("`fractal-rm runs list --state … --component … --cause … --text …` lists the runs of a"
             " group; `fractal-rm runs why RUN` tells what happened to one", err=True)  # fmt: skip
