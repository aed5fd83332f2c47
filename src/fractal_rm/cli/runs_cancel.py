"""`runs cancel`: end runs that have not ended yet."""

from __future__ import annotations

import asyncio
import secrets
from pathlib import Path

import click

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.ask import folder_actions, own_name
from fractal_rm.cli.find_run import find_run
from fractal_rm.cli.options import config_option, state_of
from fractal_rm.domain.actions import ActionRequest, Cancel


@click.command("cancel")
@click.argument("run_ids", metavar="[RUN]...", nargs=-1)
@click.option("--cut", is_flag=True, help="End the call in flight at once.")
@click.option("--no-undo", is_flag=True, help="Do not undo the finished steps.")
@config_option
def cancel_runs(run_ids: tuple[str, ...], cut: bool, no_undo: bool, folder: Path) -> None:
    """End runs as cancelled."""
    state = state_of(folder)
    history = SqliteHistory(state)
    actions = folder_actions(state)
    for each in run_ids:
        run = find_run(history, each).summary.id
        action = Cancel(run, cut=cut, undo=not no_undo)
        done = asyncio.run(actions.act(ActionRequest(action, own_name(), secrets.token_hex(8))))
        click.echo(str(done))
