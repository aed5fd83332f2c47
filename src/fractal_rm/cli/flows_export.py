"""`flows export`: write a flow in a format for other tools."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fractal_rm.cli.completion import complete_flow
from fractal_rm.cli.options import config_option, find_flow, print_json, read_config
from fractal_rm.cli.safe_text import echo
from fractal_rm.export.arazzo import export_arazzo


@click.command()
@click.argument("flow_id", metavar="FLOW", shell_complete=complete_flow)
@click.option("--to", "form", type=click.Choice(["arazzo"]), required=True)
@click.option(
    "--output",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the files to this folder, with the OpenAPI descriptions of the components.",
)
@config_option
def export(flow_id: str, form: str, output: Path | None, folder: Path) -> None:  # noqa: ARG001 - there is only one format
    """Write a flow as an Arazzo 1.0.1 description.

    The description refers to an OpenAPI description of each component that the flow calls. With
    --output, all descriptions are written to files. Without --output, only the Arazzo description
    is printed.
    """
    config = read_config(folder)
    flow = find_flow(config, flow_id)
    documents = export_arazzo(flow, config.flows, config.components)
    if output is None:
        print_json(next(iter(documents.values())))
        return
    output.mkdir(parents=True, exist_ok=True)
    for name, document in documents.items():
        text = msgspec.json.format(msgspec.json.encode(document), indent=2)
        (output / name).write_bytes(text + b"\n")
        echo(str(output / name))
