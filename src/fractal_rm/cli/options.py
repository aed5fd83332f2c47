"""Common options of the commands, and functions that read the configuration and print results."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import click
import msgspec

from fractal_rm.cli.safe_text import fit, json_escaped, pad, safe_line, width_of
from fractal_rm.config.load import load, load_comm
from fractal_rm.config.model import Config
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import did_you_mean
from fractal_rm.domain.flow import Flow


class NoSuchFlow(FractalError):
    """flows.conf has no flow with this id."""

    code = "no-such-flow"


F = TypeVar("F", bound=Callable[..., Any])

config_option = click.option(
    "--config",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("config_files"),
    show_default=True,
    metavar="DIR",
    help="The folder of the five configuration files.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")


def read_config(folder: Path) -> Config:
    """Return the configuration in ``folder``. Raises ConfigRejected."""
    return load(folder, os.environ).config


def find_flow(config: Config, flow_id: str) -> Flow:
    """Return the flow with this id. Otherwise raises NoSuchFlow, with a suggestion."""
    flow = config.flows.get(flow_id)
    if flow is None:
        hint = did_you_mean(flow_id, config.flows) or "`fractal-rm flows list` shows the flows"
        raise NoSuchFlow(f"flows.conf has no flow {flow_id}; {hint}")
    return flow


def state_of(folder: Path) -> Path:
    """Read comm.conf, and return the state folder, which contains the journals.

    Raises ConfigRejected.
    """
    return Path(load_comm(folder, os.environ).state_path)


def print_json(value: Any) -> None:
    r"""Print a value as indented JSON. The keys must not change, because programs read them.

    Characters that a terminal could act on are written as ``\uXXXX``, which is the same JSON.
    """
    text = msgspec.json.encode(value)
    with suppress(RecursionError):  # raised if the value has too many levels: print one line
        text = msgspec.json.format(text, indent=2)
    click.echo(json_escaped(text.decode()))


def print_table(head: Sequence[str], rows: Iterable[Sequence[object]], empty: str) -> None:
    """Print aligned columns, or ``empty`` if there are no rows. Cells may be text from outside.

    If the output is a terminal, lines are cut off at the width of the terminal.
    """
    edge = shutil.get_terminal_size().columns if sys.stdout.isatty() else None
    lines = table_lines(head, rows, edge)
    for line in lines or [empty]:
        click.echo(line)


def table_lines(
    head: Sequence[str], rows: Iterable[Sequence[object]], edge: int | None = None
) -> list[str]:
    """The lines of a table, of at most ``edge`` columns; no lines if there are no rows."""
    lines = [[safe_line(cell) for cell in row] for row in rows]
    if not lines:
        return []
    widths = [max(map(width_of, column)) for column in zip(head, *lines, strict=True)]
    padded = [
        "  ".join(map(pad, line, widths)).rstrip()
        for line in ([name.upper() for name in head], *lines)
    ]
    return padded if edge is None else [fit(line, edge).rstrip() for line in padded]


def moment(at_ms: int) -> str:
    """Return a time in milliseconds since 1970 as text: local time with milliseconds.

    If `datetime` cannot represent the time, returns ``N ms``.
    """
    try:
        at = datetime.fromtimestamp(at_ms / 1000, timezone.utc).astimezone()
    except (ValueError, OverflowError):
        return f"{at_ms} ms"
    return at.strftime("%Y-%m-%d %H:%M:%S.") + f"{at_ms % 1000:03d}"
