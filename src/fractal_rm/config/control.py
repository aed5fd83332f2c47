"""What `pause` and `resume` ask of the nodes of a state folder: a small file that survives them."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

NAME = "control.json"


class Control(msgspec.Struct, frozen=True):
    """``release_parked_before_ms``: parked runs accepted before that moment are to go on."""

    paused: bool = False
    release_parked_before_ms: int = 0


def read_control(state: Path) -> Control:
    """What is asked for. Where the file is absent or broken, nothing is."""
    try:
        return msgspec.json.decode((state / NAME).read_bytes(), type=Control)
    except (OSError, msgspec.MsgspecError):
        return Control()


def write_control(state: Path, control: Control) -> None:
    """Replace the file whole. Raises OSError."""
    state.mkdir(parents=True, exist_ok=True)
    temporary = state / f".{NAME}.{os.getpid()}"
    with temporary.open("wb") as file:
        file.write(msgspec.json.encode(control))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(state / NAME)
