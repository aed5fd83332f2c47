"""The command line. The module of a command is imported when the command is used.

Exit codes are in `cli.exits`.
"""

from __future__ import annotations

import importlib
import io
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import click

from fractal_rm import __version__
from fractal_rm.cli.exits import EXIT_INTERRUPTED, exit_code_of, print_error
from fractal_rm.cli.streams import ignore_broken_pipes, open_missing_streams
from fractal_rm.signals import ignore_stray_signals

# The name of each command, and the module in this package that contains it.
_COMMANDS = {
    "up": "serve",
    "mqtt": "serve",
    "api": "serve",
    "check": "check",
    "config": "config",
    "demo": "demo.command",
    "pause": "control",
    "resume": "control",
    "drain": "control",
    "nodes": "nodes",
    "components": "components",
    "top": "top",
    "runs": "runs",
    "failures": "failures",
    "dead": "dead",
    "flows": "flows",
    "journal": "journal",
    "audit": "audit",
    "backup": "backup",
    "restore": "backup",
    "token": "token",
    "pair": "pair",
    "completion": "completion",
}


class _Commands(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        module = _COMMANDS.get(cmd_name)
        if module is None:
            return None
        if module == "serve":
            ignore_stray_signals()
        return getattr(importlib.import_module(f"fractal_rm.cli.{module}"), cmd_name)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            hint = f"{error.message} The commands are: {', '.join(_COMMANDS)}."
            raise click.UsageError(hint, ctx) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fractal-rm")
def cli() -> None:
    """The FRACTAL Runtime Manager: runs flows of HTTP calls on this node.

    A trigger by MQTT or REST is written to a journal before it is acknowledged. It starts a run of
    a flow, on this or on another node. The node makes the calls of the flow and stores the outcome.
    DIR is the folder of the five configuration files; the default is ./config_files.

    Exit codes: 0 success, 1 problems found, 2 wrong usage, 3 configuration errors, 4 failed, 5 the
    journal's disk failed, 130 ended by a second signal.
    """


def main(args: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None) -> None:
    """Run a command and exit. An expected error is printed as a sentence, not as a traceback.

    ``defaults``: for each command, default values of its options.
    """
    open_missing_streams()
    ignore_broken_pipes()
    sys.exit(exit_code_of(partial(_run, args, defaults)))


def _run(args: Sequence[str] | None, defaults: Mapping[str, Any] | None) -> int | None:
    try:
        return cli(args, standalone_mode=False, default_map=defaults)
    except click.exceptions.Abort:
        return EXIT_INTERRUPTED
    except click.ClickException as error:
        text = io.StringIO()
        error.show(text)
        print_error(text.getvalue().rstrip("\n"))
        return error.exit_code
    except click.exceptions.Exit as error:
        return error.exit_code


if __name__ == "__main__":
    main()
