"""`runs`: list runs, or show one run with its facts."""

from __future__ import annotations

import click

from fractal_rm.cli.runs_act import cancel_runs, discard_runs, replay_runs
from fractal_rm.cli.runs_list import list_runs
from fractal_rm.cli.runs_record import record_run
from fractal_rm.cli.runs_resolve import resolve_run
from fractal_rm.cli.runs_show import show_run
from fractal_rm.cli.runs_wait import wait_runs
from fractal_rm.cli.runs_why import why_run


@click.group()
def runs() -> None:
    """List runs, show and explain a run, act on runs, or write a test case from a run."""


runs.add_command(list_runs)
runs.add_command(cancel_runs)
runs.add_command(discard_runs)
runs.add_command(replay_runs)
runs.add_command(record_run)
runs.add_command(resolve_run)
runs.add_command(show_run)
runs.add_command(why_run)
runs.add_command(wait_runs)
