"""`pause` and `resume`: requests to the nodes of a state folder, valid over restarts."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.cli.options import config_option, json_option, print_json, state_of
from fractal_rm.config.control import Control, ControlUnreadable, read_control, write_control


@click.command()
@click.option("--all", "everything", is_flag=True, required=True, help="Every flow.")
@config_option
@json_option
def pause(everything: bool, folder: Path, as_json: bool) -> None:  # noqa: ARG001 - the option is required
    """Start no more runs. Triggers are still accepted, and wait; runs in flight continue.

    A running node applies it within a second. It holds until `resume`, also over restarts.
    """
    state = state_of(folder)
    _write(state, msgspec.structs.replace(_read(state), paused=True), "paused", as_json)


@click.command()
@click.option("--parked", is_flag=True, help="Resume the parked runs, too.")
@config_option
@json_option
def resume(parked: bool, folder: Path, as_json: bool) -> None:
    """Start runs again after `pause`. A running node applies it within a second.

    A node parks two kinds of runs when it starts: runs older than recovery.max_age_s, as an old
    command must not move a machine; and runs that were in flight at several crashes and may be on
    another node, which is asked about them when they resume. --parked resumes the runs that are
    parked now, on the nodes that run now. If the flow has a LIMIT, a run that had started waits
    for a place.
    """
    state = state_of(folder)
    control = msgspec.structs.replace(_read(state), paused=False)
    answer = "resumed"
    if parked:
        answer += "; requested parked runs to resume"
        now_ms = SystemClock().now_ms()
        if now_ms == control.release_parked_before_ms:
            now_ms += 1  # a node notices only a changed value
        control = msgspec.structs.replace(control, release_parked_before_ms=now_ms)
    _write(state, control, answer, as_json)


def _read(state: Path) -> Control:
    """The current requests; none if the file cannot be read: then it is replaced."""
    try:
        return read_control(state)
    except ControlUnreadable:
        return Control()


def _write(state: Path, control: Control, answer: str, as_json: bool) -> None:
    write_control(state, control)
    if as_json:
        print_json(control)
    else:
        click.echo(answer)
