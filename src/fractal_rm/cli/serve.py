"""`up`, `mqtt`, `api`: run a node until it is told to stop."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.cli.options import config_option
from fractal_rm.wiring import serve


@click.command()
@config_option
def up(folder: Path) -> int:
    """Run the node, with triggers by MQTT and by REST."""
    return serve(folder, mqtt=True, rest=True, journal="up")


@click.command()
@config_option
def mqtt(folder: Path) -> int:
    """Run the node for MQTT only, as rm_mqtt.py does.

    It opens no port; its journal is its own.
    """
    return serve(folder, mqtt=True, rest=False, journal="mqtt")


@click.command()
@config_option
def api(folder: Path) -> int:
    """Run the node for REST only, as rm_api.py does.

    Its journal is its own, so it runs beside `mqtt` on one node.
    """
    return serve(folder, mqtt=False, rest=True, journal="api")
