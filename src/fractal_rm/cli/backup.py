"""`backup` and `restore`: copy a running node, and start again from the copy."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.adapters.backup.make import make_backup
from fractal_rm.adapters.backup.restore import restore_backup
from fractal_rm.adapters.clock import SystemClock
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.options import config_option, json_option, moment, print_json, state_of
from fractal_rm.domain.backup import notes_after_restore


@click.command()
@click.argument("target", type=click.Path(path_type=Path))
@config_option
@json_option
def backup(target: Path, folder: Path, as_json: bool) -> int:
    """Write a backup of the node to TARGET, while the node may run.

    TARGET is a tar file if its name ends with .tar, otherwise a folder; it must not exist. The
    backup has everything that the node acknowledged before the command began: the journals, the
    other files of the state folder, and the configuration files as they are. It has payloads and
    results (see KEEP), and the keys and tokens of joined nodes, so only its owner can read it.
    Files and variables that the configuration refers to are not in it. Exits 1 if a journal has
    damage, which is then also in the backup.
    """
    manifest = make_backup(folder, state_of(folder), target, SystemClock.now_ms())
    damaged = [each for each in manifest.journals if each.problems]
    if as_json:
        print_json(manifest)
    else:
        size = sum(file.size for file in manifest.files)
        click.echo(f"{target}: {len(manifest.files)} files, {size:,} bytes")
        for each in manifest.journals:
            click.echo(f"  journal {each.name}: {each.runs} runs ({each.open_runs} unfinished)")
        for each in damaged:
            click.echo(f"  journal {each.name} is DAMAGED, also here: {each.problems[0]}")
    return EXIT_PROBLEMS if damaged else 0


@click.command()
@click.argument("source", metavar="BACKUP", type=click.Path(path_type=Path, exists=True))
@click.option(
    "--into", "state", required=True, metavar="STATE",
    type=click.Path(path_type=Path, file_okay=False),
    help="The state folder to write; it must be empty or missing.",
)  # fmt: skip
@click.option(
    "--config-into", "config", metavar="DIR",
    type=click.Path(path_type=Path, file_okay=False),
    help="Also write the configuration files, into this empty or missing folder.",
)  # fmt: skip
@json_option
def restore(source: Path, state: Path, config: Path | None, as_json: bool) -> None:
    """Restore a backup into the new state folder STATE, before the node is started.

    Nothing is overwritten. Runs that were open are parked, because the node may have continued them
    after the backup. The command says what else the restored node does not know.
    """
    restored = restore_backup(source, state, config, SystemClock.now_ms(), moment)
    manifest = restored.manifest
    notes = list(notes_after_restore(moment(manifest.made_ms), restored.parked))
    if as_json:
        print_json({"made_ms": manifest.made_ms, "node": manifest.node, "parked": restored.parked,
                    "journals": manifest.journals, "notes": notes})  # fmt: skip
        return
    for each in manifest.journals:
        click.echo(f"{state}: journal {each.name}: {each.runs} runs ({each.open_runs} unfinished)")
    if config is not None:
        click.echo(f"{config}: the configuration files")
    click.echo("Before you start the node:")
    for note in notes:
        click.echo(f"- {note}")
