"""The control file: `pause`, `resume` and `drain` write it, and running nodes read it."""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec.structs import replace

from fractal_rm.config.durable_files import replace_file, sync_folder
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.flow_pause import FlowPause
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as

NAME = "control.json"


class ControlNotWritten(FractalError):
    """The control file cannot be written. The text gives the reason and a remedy."""

    code = "cannot-ask"


class ControlUnreadable(OSError):
    """The control file exists, but its content is not valid."""


class Control(msgspec.Struct, frozen=True):
    """The content of the control file.

    While ``paused`` is true, the nodes begin no runs. While ``draining`` is true, they accept no
    triggers and no runs of other nodes, and give their waiting runs away.

    ``release_parked_before_ms`` is the wall-clock time of the last request to release parked runs.
    Each time this value changes, a running node releases all its parked runs.

    ``paused_flows``: the nodes begin no runs of these flows.
    """

    paused: bool = False
    release_parked_before_ms: int = 0
    draining: bool = False
    paused_flows: dict[str, FlowPause] = {}


def read_control(state: Path) -> Control:
    """Read the control file. Returns the defaults if the file does not exist.

    Raises OSError, such as ControlUnreadable. The caller must not ignore this error, because the
    file may contain a pause.
    """
    try:
        return read_json_as(read_regular(state / NAME), Control)
    except FileNotFoundError:
        return Control()
    except (Malformed, msgspec.ValidationError) as error:
        raise ControlUnreadable(
            f"{state / NAME} cannot be read: {error}; run `fractal-rm pause --all` or"
            " `fractal-rm resume` to write it again"
        ) from None


def change_control(state: Path, change: Callable[[Control], Control]) -> Control:
    """Replace the control file atomically by ``change`` of its content. Returns the new content.

    The change is on the disk when this returns. Content that is not valid counts as the defaults.
    Raises ControlNotWritten.
    """
    try:
        state.mkdir(parents=True, exist_ok=True)
        with _locked(state):
            try:
                control = read_control(state)
            except ControlUnreadable:
                control = Control()
            control = change(control)
            replace_file(state / NAME, msgspec.json.encode(control))
            sync_folder(state)
    except OSError as error:
        raise _not_written(state, error) from error
    return control


def store_flow_pause(state: Path, flow: str, pause: FlowPause | None) -> Control:
    """Write into the control file that a flow is paused, or (None) that it is not.

    An earlier pause of the flow stays as it is. Raises ControlNotWritten.
    """

    def change(control: Control) -> Control:
        pauses = control.paused_flows
        if pause is not None:
            return replace(control, paused_flows={flow: pause} | pauses)
        return replace(
            control, paused_flows={each: by for each, by in pauses.items() if each != flow}
        )

    return change_control(state, change)


def store_draining(state: Path, draining: bool) -> Control:
    """Write into the control file whether the nodes drain. Raises ControlNotWritten."""
    return change_control(state, lambda control: replace(control, draining=draining))


@contextmanager
def _locked(folder: Path) -> Generator[None]:
    """Lock a folder, so that two changes at the same time do not overwrite each other.

    The lock is on the folder, because a lock file of root would lock out the user of the node.
    """
    lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
    finally:
        os.close(lock)


def _not_written(state: Path, error: OSError) -> ControlNotWritten:
    remedy = "give the user of this program write permission to the folder, or set state.path"
    if error.errno == errno.ENOSPC:
        remedy = "make room, or set state.path"
    return ControlNotWritten(
        f"{state / NAME} cannot be written ({error.strerror or error}); {remedy} in comm.conf"
        " to another folder"
    )
