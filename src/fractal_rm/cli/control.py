"""`pause`, `resume` and `drain`: write a request to the nodes of a state folder."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec.structs import replace

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.adapters.lock import is_locked
from fractal_rm.adapters.sqlite import SqliteHistory
from fractal_rm.cli.act import Verb, act_on_each
from fractal_rm.cli.completion import complete_run
from fractal_rm.cli.options import config_option, json_option, print_json, state_of
from fractal_rm.cli.safe_text import echo
from fractal_rm.config.control import Control, change_control, read_control, store_draining
from fractal_rm.domain.actions import Release
from fractal_rm.domain.journal_errors import JournalError
from fractal_rm.domain.state import State

MAX_COUNTED = 100_000  # runs of one state
_OPEN = (State.ACCEPTED, State.RUNNING, State.OFFERED, State.PARKED)
_DRAINING = """\
The node drains. {begin}, and a restart does not end it.
- New triggers, and runs that other nodes offer, are refused: REST answers 503 (draining), and MQTT
  messages stay at the broker.
- Runs that have begun are finished here. A run that waits goes to another node of nodes.conf when
  its turn comes. A run that another node has sent goes back to that node. A run that no node takes
  is executed here.
"""
_BEGINS = "A running node begins within a second"
_NOT_RUNNING = "No running node was found for the state folder"
_HOW_TO_END = "`fractal-rm drain --off` ends the drain."
_HOW_TO_WATCH = f"Run `fractal-rm drain` again to see how many runs are left.\n{_HOW_TO_END}"


@click.command()
@click.option("--all", "all_flows", is_flag=True, help="Every flow. This option is needed.")
@config_option
@json_option
def pause(all_flows: bool, folder: Path, as_json: bool) -> None:
    """Start no more runs. New triggers are accepted and wait; runs in flight continue.

    A running node pauses within a second. It stays paused until `resume`, even after a restart.
    `flows pause FLOW` pauses only one flow.
    """
    if not all_flows:
        raise click.UsageError(
            "say what to pause: `pause --all` pauses the whole node, `flows pause FLOW` one flow"
        )
    control = change_control(state_of(folder), lambda control: replace(control, paused=True))
    _print(control, "paused", as_json)


@click.command()
@click.argument("run_ids", metavar="[RUN]...", nargs=-1, shell_complete=complete_run)
@click.option("--parked", is_flag=True, help="Resume the parked runs, too; with RUN, only these.")
@config_option
@json_option
def resume(run_ids: tuple[str, ...], parked: bool, folder: Path, as_json: bool) -> int:
    """Start runs again after `pause`. A running node resumes within a second.

    When a node starts, it parks runs older than recovery.max_age_s, because an old command must not
    move a machine. It also parks a run that was in flight at recovery.max_attempts crashes, if
    another node may have the run. When such a run is resumed, its node first asks the other node
    whether it has the run.

    --parked resumes all runs that are parked on running nodes at this moment. If the flow of a run
    has a LIMIT, and the run had started before it was parked, the run waits for a free permit. With
    RUN, only these runs are resumed, and a pause of the node does not end.
    """
    if run_ids:
        if not parked:
            raise click.UsageError("to resume parked runs, give --parked, too")
        releases = {each: Release(each) for each in run_ids}
        return act_on_each(state_of(folder), releases, Verb("resume", "resumed"), as_json=as_json)
    message = "resumed"
    if parked:
        message += "; running nodes release their parked runs"
    control = change_control(state_of(folder), _release_parked if parked else _end_pause)
    _print(control, message, as_json)
    return 0


@click.command()
@click.option("--off", is_flag=True, help="End the drain: the node accepts triggers again.")
@config_option
@json_option
def drain(off: bool, folder: Path, as_json: bool) -> None:
    """Empty the node: refuse new triggers, finish or give away its runs.

    A running node begins within a second, and a restart does not end the drain. Repeat the command
    to see how many runs are left. When none is left, the node can be stopped. If no node runs, the
    drain begins when the node starts.
    """
    state = state_of(folder)
    was_draining = _is_draining(state)
    control = store_draining(state, not off)
    counts, is_running = _count_open_runs(state), _is_running(state)
    if as_json:
        print_json({"draining": control.draining, "paused": control.paused, "running": is_running,
                    "open_runs": counts})  # fmt: skip
        return
    if is_running is False:
        echo(f"{_NOT_RUNNING} {state}.")
    if not off:
        begin = "It begins when the node starts" if is_running is False else _BEGINS
        echo(_DRAINING.format(begin=begin), nl=False)
    elif was_draining:
        echo("The drain has ended. A running node accepts triggers again within a second.")
    else:
        echo("There was no drain.")
    _print_open_runs(counts, control, was_draining=was_draining)


def _is_running(state: Path) -> bool | None:
    """Whether a process has one of the journals open. None: this user cannot find out."""
    try:
        return any(is_locked(path.with_suffix(".lock")) for path in state.glob("*.journal"))
    except OSError:
        return None


def _is_draining(state: Path) -> bool:
    """Whether the nodes drain already. An unreadable file counts as no, as it is replaced."""
    try:
        return read_control(state).draining
    except OSError:
        return False


def _print_open_runs(
    counts: dict[str, int] | None, control: Control, *, was_draining: bool
) -> None:
    """Print what is left to do. In the first second of a drain, new runs may still be accepted."""
    if counts is None:
        echo("The journals cannot be read: `fractal-rm journal check` shows the reason.")
    elif not any(counts.values()):
        if control.draining:
            is_empty = "No run is left: the node can be stopped."
            echo(f"{is_empty} {_HOW_TO_END}" if was_draining else _HOW_TO_WATCH)
    else:
        texts = [f"{count:,} {state}" for state, count in counts.items() if count]
        total = sum(counts.values())
        begin = "1 run has not ended" if total == 1 else f"{total:,} runs have not ended"
        echo(f"{begin}: {', '.join(texts)}.")
        _print_obstacles(counts, control)
        if control.draining:
            echo(_HOW_TO_WATCH)


def _print_obstacles(counts: dict[str, int], control: Control) -> None:
    """Print what keeps open runs from ending by themselves."""
    if control.paused:
        echo("The node is paused, so no run begins and none is given away:"
                   " `fractal-rm resume` ends the pause.")  # fmt: skip
    if counts[State.PARKED.value]:
        echo("Parked runs stay here until `fractal-rm resume --parked`.")
    if counts[State.OFFERED.value]:
        echo("A run that stays offered waits for the answer of another node:"
                   " see `fractal-rm runs resolve --help`.")  # fmt: skip


def _count_open_runs(state: Path) -> dict[str, int] | None:
    """The numbers of open runs in each state, in all journals. None: they cannot be read."""
    history = SqliteHistory(state)
    try:
        pages = {each: history.page(state=each, limit=MAX_COUNTED) for each in _OPEN}
    except JournalError:
        return None
    if any(page.unreadable for page in pages.values()):
        return None
    return {state.value: len(page.runs) for state, page in pages.items()}


def _end_pause(control: Control) -> Control:
    return replace(control, paused=False)


def _release_parked(control: Control) -> Control:
    now_ms = SystemClock().now_ms()
    if now_ms == control.release_parked_before_ms:
        now_ms += 1  # the value must change: otherwise a node would not notice the request
    return replace(control, paused=False, release_parked_before_ms=now_ms)


def _print(control: Control, message: str, as_json: bool) -> None:
    if as_json:
        print_json(control)
    else:
        echo(message)
