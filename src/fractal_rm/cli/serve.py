"""`up`, `mqtt`, `api`: run a node until it is stopped."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.cli.options import config_option
from fractal_rm.wiring import serve


@click.command()
@config_option
def up(folder: Path) -> int:
    """Run the node with triggers by MQTT and REST."""
    return serve(folder, mqtt=True, rest=True, journal="up")


@click.command()
@config_option
def mqtt(folder: Path) -> int:
    """Run the node with triggers by MQTT only, like rm_mqtt.py.

    The node listens on no port, and has its own journal.
    """
    return serve(folder, mqtt=True, rest=False, journal="mqtt")


@click.command()
@config_option
def api(folder: Path) -> int:
    """Run the node with triggers by REST only, like rm_api.py.

    The node has its own journal, so `mqtt` can run at the same time.
    """
    return serve(folder, mqtt=False, rest=True, journal="api")
