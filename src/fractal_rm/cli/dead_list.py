"""`dead list` and `dead show`: messages that never became a run."""

from __future__ import annotations

from pathlib import Path

import click

from fractal_rm.adapters.sqlite.read.history import SqliteHistory
from fractal_rm.cli.completion import complete_run
from fractal_rm.cli.find_run import NoSuchRun, find_run
from fractal_rm.cli.options import (
    config_option,
    json_option,
    moment,
    print_json,
    print_table,
    state_of,
)
from fractal_rm.cli.safe_text import echo, safe_lines
from fractal_rm.cli.told import told_run
from fractal_rm.cli.words import paragraph, print_advice
from fractal_rm.domain.facts import Dead
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.story import tell
from fractal_rm.domain.story.words import size
from fractal_rm.engine.ports import RunDetail, RunSummary

MAX_LISTED = 10_000
WITHIN_S = 5.0  # a person waits for the list
MAX_SHOWN = 20_000  # characters of a message


@click.command("list")
@click.option(
    "--limit", type=click.IntRange(1, MAX_LISTED), default=20, show_default=True,
    help="The maximum number of dead letters.",
)  # fmt: skip
@click.option("--all", "all_letters", is_flag=True, help="Also those that were sent or discarded.")
@click.option("--cursor", metavar="TEXT", help="Go on where an earlier list ended.")
@config_option
@json_option
def list_dead(
    limit: int, all_letters: bool, cursor: str | None, folder: Path, as_json: bool
) -> None:
    """List the newest dead letters that nobody has sent again or discarded.

    A dead letter is a message that was refused before it became a run, for example because it is
    not valid JSON, or names a flow that does not exist.
    """
    history = SqliteHistory(state_of(folder))
    run_filter = RunFilter(dead_letters=True, handled=None if all_letters else False)
    found = history.find(run_filter, limit=limit, cursor=cursor, within_s=WITHIN_S)
    if as_json:
        print_json(found)
        return
    for damage in found.unreadable:
        echo(f"some dead letters are not listed: {damage}", err=True)
    print_table(
        ("letter", "refused", "by", "handled", "why"),
        [(run.id, moment(run.accepted_ms), run.source, _handled(run), run.reason)
         for run in found.runs],
        empty="no dead letters" if all_letters else "no dead letters need attention",
    )  # fmt: skip
    if found.next is not None:
        until = "" if found.searched_to_ms is None else (
            f"searched back to {moment(found.searched_to_ms)}; ")  # fmt: skip
        echo(f"{until}there may be more: --cursor {found.next}", err=True)


def _handled(run: RunSummary) -> str:
    if run.handled is None:
        return ""
    return "discarded" if run.handled.by_run is None else f"sent: {run.handled.by_run}"


@click.command("show")
@click.argument("letter", metavar="LETTER", shell_complete=complete_run)
@config_option
@json_option
def show_dead(letter: str, folder: Path, as_json: bool) -> None:
    """Show a dead letter: why it was refused, and the message.

    The first characters of its id are enough.
    """
    history = SqliteHistory(state_of(folder))
    detail = find_run(history, letter)
    if detail.summary.flow is not None:
        run = detail.summary.id
        raise NoSuchRun(f"{run} is a run, not a dead letter; `fractal-rm runs why {run}` tells it")
    if as_json:
        print_json(detail)
        return
    story = tell(told_run(history, detail, folder))
    run = detail.summary
    echo(f"dead letter {run.id}, by {run.source}, {moment(run.accepted_ms)}")
    echo()
    echo(paragraph("why: ", story.why))
    echo()
    _print_message(detail)
    print_advice(story)


def _print_message(detail: RunDetail) -> None:
    for timed in detail.facts:
        if isinstance(timed.fact, Dead):
            body = timed.fact.body
            text = body.decode("utf-8", "backslashreplace")
            echo(f"the message ({size(len(body))} are kept):")
            click.echo(safe_lines(text[:MAX_SHOWN]))
            if len(text) > MAX_SHOWN:
                echo(f"… {len(text) - MAX_SHOWN:,} more characters: --json has all of them")
