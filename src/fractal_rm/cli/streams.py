"""The standard streams: there, whatever the program was started with, and whoever reads them."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_missing_streams() -> None:
    """Open /dev/null in the place of each stream that was closed (``>&-``) at the start.

    Otherwise the first socket or the journal gets its number, and what a library prints goes there.
    Call it before anything else is opened.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest number that is free: this one
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def outlive_readers() -> None:
    """Let a command finish although nobody reads its output any more (``… | head``).

    Its exit code says what came of it, which is not that of `head`.
    """
    output = io.BufferedWriter(_Output(sys.stdout.fileno(), "w", closefd=False))
    encoding = sys.stdout.encoding
    sys.stdout = io.TextIOWrapper(output, encoding, "backslashreplace", line_buffering=True)


def drop_output() -> None:
    """Let what was printed and could not be written (a full disk) go nowhere, also at the exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)
