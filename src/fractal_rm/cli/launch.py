"""Runs a node for the scripts `rm_mqtt.py` and `rm_api.py`.

Without options, the modules that parse options are not imported. This saves 1.2 MiB of memory on a
node that uses MQTT only.
"""

from __future__ import annotations

import sys
from functools import partial
from importlib import import_module
from pathlib import Path

from fractal_rm.cli.exits import exit_code_of
from fractal_rm.cli.streams import ignore_broken_pipes, open_missing_streams
from fractal_rm.signals import ignore_stray_signals
from fractal_rm.wiring import serve


def launch(command: str, folder: Path) -> None:
    """Run the command `mqtt` or `api`. ``folder`` is the default configuration folder."""
    options = sys.argv[1:]
    if options:
        import_module("fractal_rm.cli.main").main(
            [command, *options], {command: {"folder": folder}}
        )
    open_missing_streams()
    ignore_broken_pipes()
    ignore_stray_signals()
    run = partial(serve, folder, mqtt=command == "mqtt", rest=command == "api", journal=command)
    sys.exit(exit_code_of(run))
