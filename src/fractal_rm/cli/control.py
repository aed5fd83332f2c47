"""`pause` and `resume`: write a request to the nodes of a state folder into the control file."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from fractal_rm.adapters.clock import SystemClock
from fractal_rm.cli.options import config_option, json_option, print_json, state_of
from fractal_rm.config.control import Control, ControlUnreadable, read_control, write_control


@click.command()
@click.option("--all", "all_flows", is_flag=True, required=True, help="Every flow.")
@config_option
@json_option
def pause(all_flows: bool, folder: Path, as_json: bool) -> None:  # noqa: ARG001 - the option is required
    """Start no more runs. New triggers are accepted and wait; runs in flight continue.

    A running node pauses within a second. It stays paused until `resume`, even after a restart.
    """
    state = state_of(folder)
    _write(state, msgspec.structs.replace(_read(state), paused=True), "paused", as_json)


@click.command()
@click.option("--parked", is_flag=True, help="Resume the parked runs, too.")
@config_option
@json_option
def resume(parked: bool, folder: Path, as_json: bool) -> None:
    """Start runs again after `pause`. A running node resumes within a second.

    When a node starts, it parks runs older than recovery.max_age_s, because an old command must not
    move a machine. It also parks a run that was in flight at recovery.max_attempts crashes, if
    another node may have the run. When such a run is resumed, its node first asks the other node
    whether it has the run.

    --parked resumes all runs that are parked on running nodes at this moment. If the flow of a run
    has a LIMIT, and the run had started before it was parked, the run waits for a free permit.
    """
    state = state_of(folder)
    control = msgspec.structs.replace(_read(state), paused=False)
    message = "resumed"
    if parked:
        message += "; running nodes release their parked runs"
        now_ms = SystemClock().now_ms()
        if now_ms == control.release_parked_before_ms:
            now_ms += 1  # the value must change: otherwise a node would not notice the request
        control = msgspec.structs.replace(control, release_parked_before_ms=now_ms)
    _write(state, control, message, as_json)


def _read(state: Path) -> Control:
    """Return the content of the control file, or the defaults if the content is not valid.

    The caller then replaces the file.
    """
    try:
        return read_control(state)
    except ControlUnreadable:
        return Control()


def _write(state: Path, control: Control, message: str, as_json: bool) -> None:
    write_control(state, control)
    if as_json:
        print_json(control)
    else:
        click.echo(message)
