"""`completion`: what the shell completes, and the script that makes it do so."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click
from click.shell_completion import CompletionItem, get_completion_class

from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected

PROGRAM = "fractal-rm"
VARIABLE = "_FRACTAL_RM_COMPLETE"  # click reads it
SHOWN_RUNS = 30


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh"]))
def completion(shell: str) -> None:
    """Print a script that completes commands, flows, runs and components in your shell.

    For bash, write `eval "$(fractal-rm completion bash)"` into ~/.bashrc. For zsh, write
    `eval "$(fractal-rm completion zsh)"` into ~/.zshrc, after compinit.
    """
    from fractal_rm.cli.main import cli  # noqa: PLC0415 - it imports this module

    make = get_completion_class(shell)
    if make is None:
        raise click.UsageError(f"there is no completion for {shell}")
    click.echo(make(cli, {}, PROGRAM, VARIABLE).source())


Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]


def complete_run(
    context: click.Context, _parameter: click.Parameter, begin: str
) -> list[CompletionItem]:
    """The newest runs whose id begins with the text, with their state as a hint."""
    from fractal_rm.adapters.sqlite import SqliteHistory  # noqa: PLC0415
    from fractal_rm.cli.options import state_of  # noqa: PLC0415

    try:
        history = SqliteHistory(state_of(_folder(context)))
        runs = history.runs(limit=SHOWN_RUNS, before=begin.upper() + "~" if begin else None)
    except (FractalError, ConfigRejected, OSError):  # a shell can show no error
        return []
    return [
        CompletionItem(run.id, help=f"flow {run.flow or '-'} {run.state.value}")
        for run in runs
        if run.id.startswith(begin.upper())
    ]


def complete_flow(
    context: click.Context, _parameter: click.Parameter, begin: str
) -> list[CompletionItem]:
    """The flows of flows.conf whose id begins with the text, with their title as a hint."""
    from fractal_rm.config.load import load  # noqa: PLC0415

    try:
        flows = load(_folder(context), os.environ).config.flows.values()
    except (FractalError, ConfigRejected, OSError):
        return []
    return [CompletionItem(flow.id, help=flow.title) for flow in flows if flow.id.startswith(begin)]


def complete_component(
    context: click.Context, _parameter: click.Parameter, begin: str
) -> list[CompletionItem]:
    """The components of components.conf whose name begins with the text."""
    from fractal_rm.config.load import load  # noqa: PLC0415

    try:
        names = load(_folder(context), os.environ).config.components
    except (FractalError, ConfigRejected, OSError):
        return []
    return [CompletionItem(name) for name in names if name.startswith(begin)]


def _folder(context: click.Context) -> Path:
    """The folder of the configuration: that of --config, if it was given before."""
    folder = context.params.get("folder")
    return folder if isinstance(folder, Path) else Path("config_files")
