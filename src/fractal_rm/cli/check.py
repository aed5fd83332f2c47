"""`check`: report the findings of all five configuration files."""

from __future__ import annotations

import os
from pathlib import Path

import click
from click.core import ParameterSource

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import config_option, json_option, print_json
from fractal_rm.cli.safe_text import echo
from fractal_rm.config.load import load
from fractal_rm.domain.findings import ConfigRejected, Finding


@click.command()
@click.argument(
    "argument",
    metavar="[DIR]",
    required=False,
    type=click.Path(path_type=Path, file_okay=False),
)
@config_option
@json_option
@click.pass_context
def check(context: click.Context, argument: Path | None, folder: Path, as_json: bool) -> int:
    """Check the configuration for mistakes.

    Reads the five files in DIR, which may be given with or without --config. Starts no node and
    calls no address. Exits 1 if there is an error. Warnings do not prevent a node from starting.
    """
    if argument is not None:
        is_given = context.get_parameter_source("folder") is not ParameterSource.DEFAULT
        if is_given and argument != folder:
            raise click.UsageError(
                f"two folders are given: {argument} and {folder}. Give only one of them", context
            )
        folder = argument
    try:
        compiled = load(folder, os.environ, SystemClock.now_ms())
    except ConfigRejected as error:
        _print(error.findings, as_json)
        return EXIT_PROBLEMS
    _print(compiled.warnings, as_json)
    if not as_json:
        config = compiled.config
        echo(
            f"{folder}: OK. {_count(config.flows, 'flow')}, "
            f"{_count(config.components, 'component')}, {_count(config.nodes, 'node')}"
        )
    return 0


def _count(items: object, name: str) -> str:
    number = len(items)  # pyright: ignore[reportArgumentType]
    return f"{number} {name}" + ("" if number == 1 else "s")


def _print(findings: list[Finding], as_json: bool) -> None:
    if as_json:
        print_json({"findings": findings})
        return
    for finding in findings:
        echo(finding.render())
