"""`flows graph`: draw a flow."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.cli.completion import complete_flow
from fractal_rm.cli.options import config_option, find_flow, read_config
from fractal_rm.cli.safe_text import echo_data
from fractal_rm.pictures.mermaid import mermaid
from fractal_rm.pictures.svg import svg

_FORMATS = {"svg": svg, "mermaid": mermaid}


@click.command()
@click.argument("flow_id", metavar="FLOW", shell_complete=complete_flow)
@click.option(
    "--format", "form", type=click.Choice(list(_FORMATS)), default="mermaid", show_default=True
)
@config_option
def graph(flow_id: str, form: str, folder: Path) -> None:
    """Draw a flow: its triggers, its steps, and which steps wait for other steps.

    SVG is a picture, for example `flows graph 1 --format svg > 1.svg`. Mermaid is text that
    Markdown viewers show as a picture.
    """
    flow = find_flow(read_config(folder), flow_id)
    echo_data(_FORMATS[form](flow))
