"""The command line. The module of a command is imported when the command is used.

Exit codes, for scripts:

    0    success: no problems were found
    1    the command has found problems (check, flows test, flows fmt --check, runs record,
         journal check, journal repair, audit, demo)
    2    wrong usage
    3    the configuration has errors
    4    the command failed: for example, a journal or an address is in use, or an id is unknown
    5    the disk of the journal failed while the node ran
    130  ended by Ctrl-C; a node: by a second signal
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
from fractal_rm.cli.streams import drop_output, ignore_broken_pipes, open_missing_streams
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.findings import ConfigRejected
from fractal_rm.signals import ignore_stray_signals

EXIT_PROBLEMS = 1
EXIT_USAGE = 2
EXIT_CONFIG = 3
EXIT_FAILED = 4

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


def launch(command: str, folder: Path) -> None:
    """Run one command as a program of its own. ``folder`` is its default configuration folder."""
    main([command, *sys.argv[1:]], {command: {"folder": folder}})


def main(args: Sequence[str] | None = None, defaults: Mapping[str, Any] | None = None) -> None:
    """Run a command and exit. An expected error is printed as a sentence, not as a traceback.

    ``defaults``: for each command, default values of its options.
    """
    open_missing_streams()
    ignore_broken_pipes()
    code: int | None = EXIT_FAILED
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
        _print_error("\n".join(finding.render() for finding in error.findings))
    except UnicodeEncodeError:
        code = EXIT_USAGE
        _print_error("error: an argument is not UTF-8")
    except OSError as error:
        drop_output()  # standard output may be the cause of the error
        where = f"{error.filename}: " if error.filename else ""
        _print_error(f"error: {where}{error.strerror or error}")
    except FractalError as error:
        _print_error(f"error: {error}")
    sys.exit(code or 0)


def _print_error(text: str) -> None:
    """Print to standard error. Ignore errors: the exit code still reports the failure."""
    with suppress(OSError):
        click.echo(text, err=True)


if __name__ == "__main__":
    main()
