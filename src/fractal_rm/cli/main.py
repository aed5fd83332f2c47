"""The command line. Each command's code is loaded when it is called: a node needs none of it.

Exit codes, for scripts:

    0    it is done, and what was asked about is well
    1    it is done, and what was asked about is not well (check, flows test, runs record,
         journal check, audit, demo)
    2    the command was not understood
    3    the configuration has errors
    4    it cannot be done: a journal or an address that cannot be had, an id that is not there
    5    the disk of the journal failed while the node ran
    130  ended by a second signal
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from fractal_rm import __version__
from fractal_rm.cli.streams import drop_output, open_missing_streams, outlive_readers
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.signals import ignore_stray_signals

EXIT_NOT_WELL = 1
EXIT_NOT_UNDERSTOOD = 2
EXIT_CONFIG = 3
EXIT_CANNOT = 4

_COMMANDS = {
    "up": "serve",
    "mqtt": "serve",
    "api": "serve",
    "check": "check",
    "demo": "demo.command",
    "pause": "control",
    "resume": "control",
    "runs": "runs",
    "flows": "flows",
    "journal": "journal",
    "audit": "audit",
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
            hint = f"{error.message} There is: {', '.join(_COMMANDS)}."
            raise click.UsageError(hint, ctx) from error


@click.group(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="fractal-rm")
def cli() -> None:
    """The FRACTAL Runtime Manager: runs flows of HTTP calls on this node.

    A trigger that comes in by MQTT or REST is written to a journal before it is acknowledged, is
    placed on a node, its flow's calls are made, and its outcome is kept. DIR is the folder of the
    five configuration files; without it, ./config_files is taken.

    Exit codes: 0 well, 1 not well, 2 not understood, 3 configuration errors, 4 cannot be done,
    5 the journal's disk failed, 130 ended by a second signal.
    """


def launch(command: str, folder: Path) -> None:
    """Run ``command`` as a program of its own, whose configuration is in ``folder`` by default."""
    main([command, *sys.argv[1:]], {command: {"folder": folder}})


def main(args: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None) -> None:
    """Run a command; a user's mistake is a sentence, never a traceback.

    ``defaults`` has options of commands: they stand in its help, and can be said otherwise.
    """
    open_missing_streams()
    outlive_readers()
    code: int | None = EXIT_CANNOT
    try:
        code = cli(args, standalone_mode=False, default_map=defaults)
    except (click.exceptions.Abort, KeyboardInterrupt):
        code = 130
    except click.ClickException as error:
        code = error.exit_code
        with suppress(OSError):
            error.show()
    except click.exceptions.Exit as error:
        code = error.exit_code
    except ConfigRejected as error:
        code = EXIT_CONFIG
        _say("\n".join(finding.render() for finding in error.findings))
    except UnicodeEncodeError:
        code = EXIT_NOT_UNDERSTOOD
        _say("error: an argument is not UTF-8")
    except OSError as error:
        drop_output()  # which may be what failed
        where = f"{error.filename}: " if error.filename else ""
        _say(f"error: {where}{error.strerror or error}")
    except FractalError as error:
        _say(f"error: {error}")
    sys.exit(code or 0)


def _say(text: str) -> None:
    """Write to standard error. Where that fails, the exit code has to do."""
    with suppress(OSError):
        click.echo(text, err=True)


if __name__ == "__main__":
    main()
