"""`runs record`: write a test case for flows.cases.toml from a real run."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cases.read import read_cases
from fractal_rm.cases.record import CannotRecord, RecordedCase, record_case
from fractal_rm.cases.run import read_text
from fractal_rm.cases.write import case_text
from fractal_rm.cli.completion import complete_run
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.find_run import children_of, find_run
from fractal_rm.cli.options import config_option, read_config
from fractal_rm.cli.safe_text import echo, echo_data
from fractal_rm.config.model import Config


@click.command("record")
@click.argument("run_id", metavar="RUN", shell_complete=complete_run)
@click.option(
    "--into",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Append the case to this file; by default, the case is printed.",
)
@click.option("--name", help="The name of the case.")
@config_option
def record_run(run_id: str, into: Path | None, name: str | None, folder: Path) -> int:
    """Write a test case of a flow from a real run, with secrets masked.

    RUN is the id of the run; its first characters are enough. The case may need data that the
    journal does not contain, such as a long answer that an EXPECT refused. Then the case does not
    pass, and the command exits 1: add the missing data to the case.
    """
    config = read_config(folder)
    history = SqliteHistory(Path(config.state_path))
    detail = find_run(history, run_id)
    children = list(children_of(history, detail, config))
    for run in (detail, *children):
        if run.unreadable:
            raise CannotRecord(f"run {run.summary.id} is damaged: {run.unreadable}")
    recorded = record_case(detail, config, name, children)
    if into is None:
        echo_data(_text(recorded))
    else:
        _append(into, recorded, config)
    for difference in recorded.differences:
        text = f"{difference.what}: expected {difference.expected}, got {difference.got}"
        echo(f"the case does not pass yet: {text}", err=True)
    return EXIT_PROBLEMS if recorded.differences else 0


def _text(recorded: RecordedCase) -> str:
    return "".join(f"# {note}\n" for note in recorded.notes) + case_text(recorded.case)


def _append(file: Path, recorded: RecordedCase, config: Config) -> None:
    """Append the case to a file of cases.

    Raises ConfigRejected if the file has errors, and CannotRecord if it already has a case with
    the same name.
    """
    name = recorded.case.name
    old_text = read_text(file) if file.exists() else ""
    if any(case.name == name for case in read_cases(old_text, config, file.name)):
        raise CannotRecord(f'{file} already has a case "{name}"; give another --name')
    separator = "" if not old_text else "\n" if old_text.endswith("\n") else "\n\n"
    with file.open("a", encoding="utf-8") as out:
        out.write(f"{separator}{_text(recorded)}")
    echo(f'added case "{name}" to {file}')
