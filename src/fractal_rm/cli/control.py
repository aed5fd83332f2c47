"""`pause` and `resume`: asked of the nodes of a state folder, over restarts."""

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
def pause(everything: bool, folder: Path, as_json: bool) -> None:  # noqa: ARG001 - it must be said
    """Begin no further run. Triggers are still taken, and wait; runs in flight go on.

    A running node takes it up within a second. It holds until `resume`, over restarts too.
    """
    state = state_of(folder)
    _ask(state, msgspec.structs.replace(_asked(state), paused=True), "paused", as_json)


@click.command()
@click.option("--parked", is_flag=True, help="Let the parked runs go on, too.")
@config_option
@json_option
def resume(parked: bool, folder: Path, as_json: bool) -> None:
    """Let runs begin again after `pause`; a running node takes it up within a second.

    Runs that were found at a start and were older than recovery.max_age_s are parked: an old
    command must not move a machine. So are runs that were in flight at several crashes and that
    another node may have; it is asked when they go on. They stay parked until --parked is given
    while their node runs; it says nothing about runs that are parked later. One that had begun
    goes on when there is a place for it again, where its flow has a LIMIT.
    """
    state = state_of(folder)
    control = msgspec.structs.replace(_asked(state), paused=False)
    answer = "runs may begin"
    if parked:
        answer += "; parked runs were asked to go on"
        asked_ms = SystemClock().now_ms()
        if asked_ms == control.release_parked_before_ms:
            asked_ms += 1  # it is asked by a change
        control = msgspec.structs.replace(control, release_parked_before_ms=asked_ms)
    _ask(state, control, answer, as_json)


def _asked(state: Path) -> Control:
    """What was asked for before; a file that cannot be read is written anew."""
    try:
        return read_control(state)
    except ControlUnreadable:
        return Control()


def _ask(state: Path, control: Control, answer: str, as_json: bool) -> None:
    write_control(state, control)
    if as_json:
        print_json(control)
    else:
        click.echo(answer)
