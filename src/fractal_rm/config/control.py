"""The control file. The commands `pause` and `resume` write it, and running nodes read it."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec

from fractal_rm.config.durable_files import replace_file
from fractal_rm.config.regular_file import read_regular
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as

NAME = "control.json"


class ControlNotWritten(FractalError):
    """The control file cannot be written. The text gives the reason and a remedy."""

    code = "cannot-ask"


class ControlUnreadable(OSError):
    """The control file exists, but its content is not valid."""


class Control(msgspec.Struct, frozen=True):
    """The content of the control file. While ``paused`` is true, the nodes begin no runs.

    ``release_parked_before_ms`` is the wall-clock time of the last request to release parked runs.
    Each time this value changes, a running node releases all its parked runs.
    """

    paused: bool = False
    release_parked_before_ms: int = 0


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


def write_control(state: Path, control: Control) -> None:
    """Replace the control file atomically. Raises ControlNotWritten."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        replace_file(state / NAME, msgspec.json.encode(control))
    except OSError as error:
        remedy = "give the user of this program write permission to the folder, or set state.path"
        if error.errno == errno.ENOSPC:
            remedy = "make room, or set state.path"
        raise ControlNotWritten(
            f"{state / NAME} cannot be written ({error.strerror or error}); {remedy} in comm.conf"
            " to another folder"
        ) from error
