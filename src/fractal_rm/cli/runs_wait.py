"""`runs wait`: wait until runs have ended."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.local_socket.client import NoAnswer, NoProcess, NotAnswered, ask
from fractal_rm.adapters.local_socket.messages import AwaitEnd, Ended
from fractal_rm.adapters.local_socket.socket_file import socket_path
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.ask import sudo_user
from fractal_rm.cli.completion import complete_run
from fractal_rm.cli.exits import EXIT_PROBLEMS, EXIT_TIMED_OUT
from fractal_rm.cli.find_run import NoSuchRun, find_run
from fractal_rm.cli.options import config_option, json_option, print_json, state_of
from fractal_rm.cli.safe_text import echo
from fractal_rm.domain.state import State
from fractal_rm.engine.ports import RunSummary

TURN_S = 30.0  # the node is asked again after this time
PAUSE_S = 0.3  # between two looks at the journals
ANSWER_LIMIT_S = 5.0  # for the answer, in addition to the time of waiting


@click.command("wait")
@click.argument("run_ids", metavar="RUN...", nargs=-1, required=True, shell_complete=complete_run)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0),
    metavar="SECONDS",
    help="Wait at most this long for all runs together.",
)
@config_option
@json_option
def wait_runs(
    run_ids: tuple[str, ...], timeout_s: float | None, folder: Path, as_json: bool
) -> int:
    """Wait until all these runs have ended, and print how each of them ended.

    The first characters of an id are enough. The exit code is 0 if all runs succeeded, 1 if a run
    ended in another way, and 124 if a run has not ended in time. A run that was handed off has
    ended here in another way: ask the other node about it.

    If the node does not run, the journals are read again and again until it has been started and
    the runs have ended.
    """
    state = state_of(folder)
    history = SqliteHistory(state)
    ids = [find_run(history, each).summary.id for each in run_ids]
    ended = asyncio.run(_wait_for_all(history, state, ids, timeout_s, as_json=as_json))
    if as_json:
        print_json({"runs": ended})
    if any(not run.state.final for run in ended):
        return EXIT_TIMED_OUT
    return 0 if all(run.state is State.SUCCEEDED for run in ended) else EXIT_PROBLEMS


async def _wait_for_all(
    history: SqliteHistory, state: Path, ids: list[str], timeout_s: float | None, *, as_json: bool
) -> list[RunSummary]:
    end_s = None if timeout_s is None else SystemClock.monotonic_s() + timeout_s
    ended: list[RunSummary] = []
    for run_id in ids:
        run = await wait_for_end(history, state, run_id, end_s)
        ended.append(run)
        if not as_json:
            reason = f", {run.reason}" if run.reason and run.state is not State.SUCCEEDED else ""
            text = run.state.value if run.state.final else f"still {run.state.value}"
            echo(f"run {run.id}: {text}{reason}")
    return ended


async def wait_for_end(
    history: SqliteHistory, state: Path, run_id: str, end_s: float | None
) -> RunSummary:
    """The run when it has ended, or as it is at ``end_s`` (on the monotonic clock).

    Raises NoSuchRun if the run is no longer in the journals.
    """
    while True:
        detail = await asyncio.to_thread(history.run, run_id)
        if detail is None:
            raise NoSuchRun(f"run {run_id} is no longer in the journals")
        left_s = TURN_S if end_s is None else end_s - SystemClock.monotonic_s()
        if detail.summary.state.final or left_s <= 0:
            return detail.summary
        within_s = min(left_s, TURN_S)
        request = AwaitEnd(run=run_id, within_s=within_s, sudo_user=sudo_user())
        path = socket_path(state, detail.summary.journal)
        try:
            outcome = (await ask(path, request, Ended, within_s + ANSWER_LIMIT_S)).outcome
        except (NoProcess, NoAnswer, NotAnswered):
            outcome = None
        if outcome is None:  # it has not ended, or the process of its journal does not run
            await asyncio.sleep(min(left_s, PAUSE_S))
