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

_OTHER_WORDS = {"repeat": "replay"}
_MEANT = {
    "retry": "replay", "again": "replay", "rerun": "replay", "restart": "replay",
    "dismiss": "discard", "ignore": "discard", "ack": "discard", "delete": "discard",
    "stop": "cancel", "kill": "cancel", "explain": "why",
}  # fmt: skip


class _Runs(click.Group):
    """The commands. Some have a second name; for some other words there is a hint."""

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        return super().get_command(ctx, _OTHER_WORDS.get(cmd_name, cmd_name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        meant = _MEANT.get(args[0]) if args else None
        if meant is None:
            return super().resolve_command(ctx, args)
        raise click.UsageError(f"there is no command `runs {args[0]}`: use `runs {meant}`", ctx)


@click.group(cls=_Runs)
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
