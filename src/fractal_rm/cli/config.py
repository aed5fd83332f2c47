"""`config`: what the node uses, what has changed in the files, and the way back."""

from __future__ import annotations

import os
from pathlib import Path

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.cli.ask import own_name
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import config_option, json_option, moment, print_json, print_table
from fractal_rm.cli.safe_text import echo
from fractal_rm.cli.statuses import JOURNALS, has_process
from fractal_rm.config.applied import FOLDER, Applied, applied_numbers, read_applied
from fractal_rm.config.compile import FILES, compile_config
from fractal_rm.config.load import load_comm
from fractal_rm.config.versions import (
    changed_files,
    difference,
    findings_on_disk,
    newest_number,
    past_configurations,
    previous_number,
    texts_on_disk,
)
from fractal_rm.config.write_files import CannotRollBack, unused_changes, write_configuration
from fractal_rm.domain.findings import ConfigRejected

DEFAULT_STATE = "state"  # beside the folder of the configuration

state_option = click.option(
    "--state",
    "state_folder",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="The state folder, if comm.conf cannot be read.",
)


@click.group()
def config() -> None:
    """Compare the configuration with the one in force, list earlier ones, and go back.

    A node keeps the last 50 configurations that it has used in its state folder.
    """


@config.command("diff")
@click.argument("number", metavar="[N]", type=int, required=False)
@state_option
@config_option
@json_option
def diff(number: int | None, state_folder: Path | None, folder: Path, as_json: bool) -> int:
    """Show how the files differ from the configuration in force, or from configuration N.

    If the files have errors, the node goes on with the configuration in force; the errors are
    shown, too. Exits 1 if there is a difference.
    """
    state = _state(folder, state_folder)
    base = read_applied(state, newest_number(state) if number is None else number)
    on_disk = texts_on_disk(folder)
    label = "in force" if number is None else f"configuration {number}"
    differences = {
        file: difference(file, base.files.get(file, ""), on_disk[file], label) for file in FILES
    }
    changed = {file: lines for file, lines in differences.items() if lines}
    findings = findings_on_disk(folder, SystemClock.now_ms()) if changed else []
    if as_json:
        print_json({"number": base.number, "at_ms": base.at_ms, "by": base.by,
                    "differences": changed, "findings": findings})  # fmt: skip
        return EXIT_PROBLEMS if changed else 0
    if not changed:
        earlier = [each for each in applied_numbers(state) if each < base.number]
        text = f"no difference: the files are configuration {base.number} ({_about(base)})"
        if earlier and number is None:
            text += f"; `fractal-rm config diff {earlier[-1]}` shows what was changed last"
        echo(text)
        return 0
    for lines in changed.values():
        echo("\n".join(lines))
    echo()
    what = "the configuration in force" if number is None else f"configuration {number}"
    echo(f"- is {what} ({_about(base)}), + is in the files")
    if findings:
        echo("The files have errors, so the node does not use them:")
        for finding in findings:
            echo(finding.render())
    elif number is None:
        echo(_used_when(state))
    return EXIT_PROBLEMS


@config.command("history")
@state_option
@config_option
@json_option
def history(state_folder: Path | None, folder: Path, as_json: bool) -> None:
    """List the configurations that the node has used, the newest first.

    CHANGED has the files that differ from the configuration before.
    """
    state = _state(folder, state_folder)
    rows = past_configurations(state)
    if as_json:
        print_json({"configurations": [
            {"number": each.number, "at_ms": each.at_ms, "by": each.by, "changed": each.changed}
            for each in rows if not each.fault
        ]})  # fmt: skip
        return
    print_table(
        ("n", "since", "by", "changed"),
        [
            (each.number, "?", each.fault, "")
            if each.fault
            else (each.number, moment(each.at_ms)[:19], each.by, ", ".join(each.changed) or "-")
            for each in rows
        ],
        empty=f"no node has used a configuration yet, or {state / FOLDER} was deleted",
    )


@config.command("rollback")
@click.argument("number", metavar="[N]", type=int, required=False)
@click.option(
    "--force", is_flag=True, help="Also if the files were changed and the node has not used them."
)
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@state_option
@config_option
@json_option
def rollback(
    number: int | None, force: bool, dry_run: bool, state_folder: Path | None, folder: Path,
    as_json: bool,
) -> None:  # fmt: skip
    """Write the files of configuration N, or of the one before the one in force.

    The configuration is checked first, and all five files are written, or none. A running node uses
    them within a second.

    If the files on the disk were changed, and the node has not used them (because they have errors,
    or it does not run), the changes would be lost. Then the command refuses; `config diff` shows
    the changes. To return to the configuration in force, give its number N and --force.
    """
    state = _state(folder, state_folder)
    newest = read_applied(state, newest_number(state))
    if number is None:
        number = previous_number(state, newest.number)
    wanted = read_applied(state, number)
    on_disk = texts_on_disk(folder)
    unused = unused_changes(on_disk, newest, wanted.files)
    if unused and not force:
        raise CannotRollBack(
            f"{', '.join(unused)} on the disk differs from the configuration in force, and the"
            " change would be lost: `fractal-rm config diff` shows it. To return to the"
            " configuration in force:"
            f" `fractal-rm config rollback {newest.number} --force`."
            f" {_without_number(state, newest)}"
        )
    _ = compile_config(wanted.files, folder, os.environ, now_ms=SystemClock.now_ms())
    changed = changed_files(on_disk, wanted.files)
    if not dry_run:
        by = f"{own_name()}: rollback to {wanted.number}"
        _ = write_configuration(
            folder, state, wanted.files, seen=on_disk, by=by, at_ms=SystemClock.now_ms()
        )
    if as_json:
        print_json({"number": wanted.number, "changed": changed, "written": not dry_run})
        return
    if not changed:
        echo(f"nothing to do: the files are configuration {wanted.number} ({_about(wanted)})")
        return
    verb = "would be written" if dry_run else "written"
    echo(f"{verb}: {', '.join(changed)}, as in configuration {wanted.number} ({_about(wanted)})")
    if not dry_run:
        echo(_used_when(state))


def _without_number(state: Path, newest: Applied) -> str:
    """Where a rollback without N goes."""
    earlier = [each for each in applied_numbers(state) if each < newest.number]
    without = f"Without {newest.number}, the command"
    if not earlier:
        return f"{without} does nothing, as there is no earlier configuration"
    return f"{without} goes back to configuration {earlier[-1]}"


def _state(folder: Path, given: Path | None) -> Path:
    """The state folder, also if comm.conf has errors. Raises ConfigRejected."""
    if given is not None:
        return given
    try:
        return Path(load_comm(folder, os.environ).state_path)
    except ConfigRejected:
        default = folder.resolve().parent / DEFAULT_STATE
        if (default / FOLDER).is_dir():
            return default
        echo("comm.conf has errors, so the state folder is not known: give it with --state DIR",
             err=True)  # fmt: skip
        raise


def _used_when(state: Path) -> str:
    if any(has_process(state, journal) for journal in JOURNALS):
        return "A running node uses the files within a second; its log says why if it does not."
    return "The node does not run. It uses the files when it is started."


def _about(applied: Applied) -> str:
    return f"since {moment(applied.at_ms)[:19]}, {applied.by}"
