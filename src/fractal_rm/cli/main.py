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
    141  nobody reads the output any more, so what was found is not known (`| head`)
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import click

from fractal_rm import __version__
from fractal_rm.cli.streams import discard_output, open_missing_streams
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.signals import ignore_stray_signals

EXIT_NOT_WELL = 1
EXIT_CONFIG = 3
EXIT_CANNOT = 4
EXIT_UNREAD = 141  # as a shell says of other programs: 128 + SIGPIPE

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
    "audit": "journal",
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
    5 the journal's disk failed, 130 ended by a second signal, 141 the output is not read.
    """


def launch(command: str, folder: Path) -> None:
    """Run ``command`` as a program of its own, whose configuration is in ``folder`` by default."""
    main([command, *sys.argv[1:]], {command: {"folder": folder}})


def main(args: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None) -> None:
    """Run a command; a user's mistake is a sentence, never a traceback.

    ``defaults`` has options of commands: they stand in its help, and can be said otherwise.
    """
    open_missing_streams()
    try:
        # Not `cli()`: that exits with 1 where nobody reads, which means "not well" here.
        name, args = Path(sys.argv[0]).name, list(sys.argv[1:] if args is None else args)
        with cli.make_context(name, args, default_map=defaults) as context:
            code = cli.invoke(context)
    except click.exceptions.Abort:
        code = 130
    except click.ClickException as error:
        _say(error.show)
        code = error.exit_code
    except click.exceptions.Exit as error:
        code = error.exit_code
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        discard_output()
        code = EXIT_UNREAD
    except ConfigRejected as error:
        findings = "\n".join(finding.render() for finding in error.findings)
        _say(partial(click.echo, findings, err=True))
        code = EXIT_CONFIG
    except (FractalError, OSError) as error:
        _say(partial(click.echo, f"error: {error}", err=True))
        code = EXIT_CANNOT
    sys.exit(code or 0)


def _say(show: Callable[[], None]) -> None:
    """Show it on standard error. Where that takes nothing, the exit code says it alone."""
    try:
        show()
    except OSError:
        discard_output()


if __name__ == "__main__":
    main()
