"""`dead send` and `dead discard`: what can be done with dead letters."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import click

from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.act import Verb, act_on_runs, yes_option
from fractal_rm.cli.exits import EXIT_PROBLEMS
from fractal_rm.cli.filter_options import letter_filter_options
from fractal_rm.cli.find_run import find_run
from fractal_rm.cli.options import config_option, json_option, state_of
from fractal_rm.domain.actions import Discard, Send
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.facts import Dead
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.domain.state import State

_SEND = Verb(
    "send", "sent", "dead letter", "is sent again",
    effect="The messages start new runs, and the runs make their calls.",
)  # fmt: skip
_DISCARD = Verb("discard", "discarded", "dead letter", "is marked as discarded")
_ONLY_DEAD_LETTERS = RunFilter(states=(State.DEAD,), dead_letters=True)


letters_argument = click.argument("letters", metavar="[LETTER]...", nargs=-1)


class NoMessage(FractalError):
    """There is no stored message to edit."""

    code = "no-message"


@click.command("send")
@letters_argument
@click.option(
    "--body",
    type=click.File("rb"),
    metavar="FILE",
    help="Send the content of this file instead; - is standard input.",
)
@click.option("--edit", is_flag=True, help="Open the message in $EDITOR, and send the result.")
@click.option("--again", is_flag=True, help="Also a message that was sent or discarded before.")
@letter_filter_options
@yes_option
@config_option
@json_option
def send_dead(
    letters: tuple[str, ...], run_filter: RunFilter, folder: Path,
    *, body: BinaryIO | None, edit: bool, again: bool, yes: bool, as_json: bool,
) -> int:  # fmt: skip
    """Send the messages of dead letters again, as new triggers.

    LETTER is the id of a dead letter (`fractal-rm dead list`). With conditions instead, all dead
    letters that match are meant: their number is shown first. The dead letter stays as it is, and
    the new run names it. Exits 1 if a message was not sent.
    """
    if body is not None and edit:
        raise click.UsageError("give either --body or --edit")
    if (body is not None or edit) and len(letters) != 1:
        raise click.UsageError("--body and --edit need exactly one LETTER")
    state = state_of(folder)
    content = None
    if body is not None:
        content = body.read()
    elif edit:
        content = _edited(_stored_message(state, letters[0]))
        if content is None:
            click.echo("the message was not changed, so nothing was sent", err=True)
            return EXIT_PROBLEMS
    return act_on_runs(
        state, letters, run_filter, _SEND, Send("", content, again),
        yes=yes, as_json=as_json, scope=_ONLY_DEAD_LETTERS,
    )  # fmt: skip


@click.command("discard")
@letters_argument
@click.option("--note", metavar="TEXT", default="", help="Why; it is kept in the journal.")
@letter_filter_options
@yes_option
@config_option
@json_option
def discard_dead(
    letters: tuple[str, ...], run_filter: RunFilter, folder: Path,
    *, note: str, yes: bool, as_json: bool,
) -> int:  # fmt: skip
    """Mark dead letters that need no more attention. They stay in the history.

    LETTER is the id of a dead letter (`fractal-rm dead list`). With conditions instead, all dead
    letters that match are meant: their number is shown first. Exits 1 if a dead letter was not
    marked.
    """
    return act_on_runs(
        state_of(folder), letters, run_filter, _DISCARD, Discard("", note),
        yes=yes, as_json=as_json, scope=_ONLY_DEAD_LETTERS,
    )  # fmt: skip


def _stored_message(state: Path, run_id: str) -> str:
    """The message of a dead letter, as text. Raises NoSuchRun, NoMessage."""
    detail = find_run(SqliteHistory(state), run_id)
    for timed in detail.facts:
        if isinstance(timed.fact, Dead):
            try:
                return timed.fact.body.decode()
            except UnicodeDecodeError:
                raise NoMessage(
                    f"the message of {detail.summary.id} is not text: write the new message into a"
                    " file, and use --body FILE"
                ) from None
    raise NoMessage(f"{detail.summary.id} is {detail.summary.state.value}, not a dead letter")


def _edited(message: str) -> bytes | None:
    """What the operator makes of a message; None: it was not changed."""
    text = click.edit(message, extension=".json", require_save=True)
    if text is None or text.rstrip("\n") == message.rstrip("\n"):
        return None
    return text.encode()
