"""Acts on runs: on those that the command names, or on all that match a filter."""

from __future__ import annotations

import asyncio
import secrets
import sys
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

import click
import msgspec

from fractal_rm.adapters.local_socket.client import NoAnswer, NotAnswered
from fractal_rm.adapters.local_socket.folder_actions import FolderActions
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.ask import folder_actions, own_name
from fractal_rm.cli.completion import complete_run
from fractal_rm.cli.exits import EXIT_FAILED, EXIT_PROBLEMS
from fractal_rm.cli.find_run import NoSuchRun, find_run
from fractal_rm.cli.options import print_json, print_table
from fractal_rm.cli.safe_text import echo, safe_line
from fractal_rm.domain.actions import (
    ActionDone,
    ActionRefused,
    ActionRequest,
    BulkAction,
    BulkRequest,
    CannotActNow,
    RunAction,
)
from fractal_rm.domain.bulk_filter import filter_for
from fractal_rm.domain.run_filter import RunFilter
from fractal_rm.engine.bulk import MAX_RUNS
from fractal_rm.engine.ports.actions import BulkProgress

COUNT_LIMIT_S = 30.0
yes_option = click.option("--yes", is_flag=True, help="Do not ask whether to go on.")
runs_argument = click.argument("run_ids", metavar="[RUN]...", nargs=-1, shell_complete=complete_run)


# Refusals after which the same command may succeed.
_NOT_NOW = {each.code for each in (CannotActNow, NoAnswer, NotAnswered)}


class Result(msgspec.Struct, omit_defaults=True):
    """What was done with one run, for ``--json``. ``error`` and ``reason``: it was refused."""

    run: str
    state: str | None = None
    new_run: str | None = None
    repeated: bool = False
    error: str | None = None
    reason: str | None = None


class Verb(msgspec.Struct, frozen=True):
    """How a command is called in texts: ``cancel`` and ``cancelled``."""

    base: str
    past: str


def act_on_runs(
    state: Path,
    run_ids: tuple[str, ...],
    run_filter: RunFilter,
    verb: Verb,
    action: BulkAction,
    *,
    yes: bool,
    as_json: bool,
    scope: RunFilter | None = None,
) -> int:
    """Act on the runs with these ids, or on all runs that match the filter. Returns the exit code.

    ``action`` has no run yet. ``scope``: conditions that the command adds to those of the operator.
    """
    if run_ids and not run_filter.is_empty:
        raise click.UsageError("give the ids of runs, or conditions such as --flow, but not both")
    if run_ids:
        make = {each: msgspec.structs.replace(action, run=each) for each in run_ids}
        return act_on_each(state, make, verb, as_json=as_json)
    if run_filter.is_empty:
        raise click.UsageError(
            "give the ids of runs, or at least one condition, such as --flow or --since"
        )
    if scope is not None:
        given = msgspec.structs.asdict(scope)
        added = {name: value for name, value in given.items() if value is not None}
        run_filter = msgspec.structs.replace(run_filter, **added)
    run_filter = filter_for(action, run_filter)
    return _act_on_all(state, run_filter, verb, action, yes=yes, as_json=as_json)


def act_on_each(
    state: Path, actions_by_run: Mapping[str, RunAction], verb: Verb, *, as_json: bool
) -> int:
    """Do an action on each run. The keys are ids, or the first characters of ids.

    Raises NoSuchRun before the first action. Returns the exit code.
    """
    history = SqliteHistory(state)
    wanted = {
        find_run(history, given).summary.id: action for given, action in actions_by_run.items()
    }
    results = asyncio.run(_act_one_by_one(folder_actions(state), wanted))
    if as_json:
        print_json({"results": results})
    else:
        for result in results:
            echo(_sentence(result, verb), err=result.error is not None)
    return _exit_code(results)


def _exit_code(results: Sequence[Result]) -> int:
    """4 if a process must be started first, 1 if an action is not possible, otherwise 0."""
    errors = {result.error for result in results if result.error is not None}
    if errors & _NOT_NOW:
        return EXIT_FAILED
    return EXIT_PROBLEMS if errors else 0


async def _act_one_by_one(actions: FolderActions, wanted: Mapping[str, RunAction]) -> list[Result]:
    return [
        await _act(actions, msgspec.structs.replace(action, run=run_id))
        for run_id, action in wanted.items()
    ]


async def _act(actions: FolderActions, action: RunAction) -> Result:
    try:
        done = await actions.act(ActionRequest(action, own_name(), new_request_id()))
    except ActionRefused as error:
        state = error.state and error.state.value
        return Result(action.run, state, error.new_run, error=error.code, reason=error.reason)
    return _result(action.run, done)


def _result(run_id: str, done: ActionDone) -> Result:
    return Result(run_id, done.state and done.state.value, done.new_run, done.repeated)


def _sentence(result: Result, verb: Verb) -> str:
    """What was done with a run, as text."""
    if result.error is not None:
        return f"run {result.run} was not {verb.past}: {result.reason}"
    text = f"run {result.run} is {verb.past}"
    if result.new_run is not None:
        return f"{text}: the new run is {result.new_run}"
    if result.state is not None and result.state != verb.past:
        text += f"; it is {result.state} now"
    return text


def new_request_id() -> str:
    """The id of a request. A request with the same id is done once."""
    return secrets.token_hex(8)


# --- on many runs ---------------------------------------------------------------------------------


def _act_on_all(
    state: Path, run_filter: RunFilter, verb: Verb, action: BulkAction, *, yes: bool, as_json: bool
) -> int:
    """Count the runs, ask, and let a running process act on them."""
    if as_json and not yes:
        raise click.UsageError("--json on many runs needs --yes, as nobody can answer a question")
    number = _count(state, run_filter)
    if not number:
        if as_json:
            print_json(BulkProgress(0, finished=True))
        else:
            click.echo("no run matches, so nothing was done")
        return EXIT_PROBLEMS
    if not yes and not _confirm(f"{verb.base.capitalize()} {_runs(number)}?"):
        click.echo("nothing was done", err=True)
        return EXIT_PROBLEMS
    request = BulkRequest(action, run_filter, number, own_name(), new_request_id())
    last = BulkProgress(number)
    show_progress = not as_json and sys.stderr.isatty()

    async def follow() -> None:
        nonlocal last
        async with aclosing(folder_actions(state).act_on_all(request)) as progresses:
            async for last in progresses:
                if show_progress:
                    click.echo(
                        f"\r{last.done + last.refused:,} of {last.total:,}", err=True, nl=False
                    )

    try:
        asyncio.run(follow())
    finally:  # also after Ctrl-C, and when the process has ended
        if show_progress:
            click.echo(err=True)
        _print_progress(last, verb, as_json=as_json)
    return EXIT_PROBLEMS if last.refused else 0


def _count(state: Path, run_filter: RunFilter) -> int:
    """The number of matching runs. Raises NoSuchRun if there are too many."""
    count = SqliteHistory(state).count(run_filter, most=MAX_RUNS + 1, within_s=COUNT_LIMIT_S)
    for damage in count.unreadable:
        echo(f"some runs are not counted: {damage}", err=True)
    if count.number > MAX_RUNS:
        raise NoSuchRun(f"more than {MAX_RUNS:,} runs match; narrow the filter, as by --since")
    return count.number


def _confirm(question: str) -> bool:
    """Ask the operator. If nobody can answer, the answer is no."""
    try:
        return click.confirm(question, err=True)
    except click.Abort:
        click.echo("\nwithout an answer; --yes does not ask", err=True)
        return False


def _runs(number: int) -> str:
    return "1 run" if number == 1 else f"{number:,} runs"


def _print_progress(progress: BulkProgress, verb: Verb, *, as_json: bool) -> None:
    if as_json:
        print_json(progress)
        return
    rows: list[tuple[str, int, str]] = [(verb.past, progress.done, "")]
    rows += [(f"refused: {code}", number, "") for code, number in progress.refusals.items()]
    remaining = progress.total - progress.done - progress.refused
    if remaining:
        rows.append(("not reached", remaining, ""))
    print_table(("result", "runs"), [row[:2] for row in rows], empty="")
    if progress.last_refusal:
        echo(f"the last refusal: {safe_line(progress.last_refusal)}")
