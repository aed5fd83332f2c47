"""`check`: report the findings of all five configuration files."""

from __future__ import annotations

import os
from pathlib import Path

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import json_option, print_json
from fractal_rm.cli.safe_text import echo
from fractal_rm.config.load import load
from fractal_rm.domain.findings import ConfigRejected, Finding


@click.command()
@click.argument(
    "folder",
    metavar="[DIR]",
    default=Path("config_files"),
    type=click.Path(path_type=Path, file_okay=False),
)
@json_option
def check(folder: Path, as_json: bool) -> int:
    """Check the configuration for mistakes.

    Reads the five files in DIR. Starts no node and calls no address. Exits 1 if there is an error.
    Warnings do not prevent a node from starting.
    """
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
