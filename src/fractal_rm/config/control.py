"""What `pause` and `resume` ask of the nodes of a state folder: a small file that survives them."""

from __future__ import annotations

import errno
from pathlib import Path

import msgspec

from fractal_rm.config.regular_file import read_regular
from fractal_rm.config.whole_file import replace_file
from fractal_rm.domain.errors import FractalError
from fractal_rm.domain.refusals import Malformed
from fractal_rm.domain.strict_json import read_json_as

NAME = "control.json"


class CannotAsk(FractalError):
    """The file cannot be written. The text names the cause and the cure."""

    code = "cannot-ask"


class ControlUnreadable(OSError):
    """The file is there, and what it asks for cannot be known."""


class Control(msgspec.Struct, frozen=True):
    """``release_parked_before_ms``: when it was last asked that parked runs go on (wall clock).

    That is asked of the nodes that run now, once, by a change of it: all parked runs are meant, as
    runs are parked at a start only. ``paused`` holds until it is taken back.
    """

    paused: bool = False
    release_parked_before_ms: int = 0


def read_control(state: Path) -> Control:
    """What is asked for; nothing where there is no file. Raises OSError: ControlUnreadable.

    It may have asked for a pause, and so must not be taken for one that asks for nothing.
    """
    try:
        return read_json_as(read_regular(state / NAME), Control)
    except FileNotFoundError:
        return Control()
    except (Malformed, msgspec.ValidationError) as error:
        raise ControlUnreadable(
            f"{state / NAME} cannot be read: {error}; `fractal-rm pause --all` or `fractal-rm"
            " resume` writes it anew"
        ) from None


def write_control(state: Path, control: Control) -> None:
    """Replace the file whole, or leave it as it is. Raises CannotAsk."""
    try:
        state.mkdir(parents=True, exist_ok=True)
        replace_file(state / NAME, msgspec.json.encode(control))
    except OSError as error:
        cure = "give the user of this program write permission to the folder, or set state.path"
        if error.errno == errno.ENOSPC:
            cure = "make room, or set state.path"
        raise CannotAsk(
            f"{state / NAME} cannot be written ({error.strerror or error}); {cure} in comm.conf to"
            " another folder"
        ) from error
