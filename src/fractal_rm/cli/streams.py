"""Makes the standard streams usable, even if they are closed or no program reads them."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_missing_streams() -> None:
    """Open /dev/null in place of each standard stream that is closed (``>&-``).

    Otherwise a socket or a file of the journal could get the descriptor number of the stream, and
    a library could write its output to it. Call this before any other file is opened.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free descriptor, which is `number`
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def ignore_broken_pipes() -> None:
    """Ignore that the reader of the output has exited (``… | head``), so that a command finishes.

    The exit code then does not depend on the reader.
    """
    output = io.BufferedWriter(_Output(sys.stdout.fileno(), "w", closefd=False))
    encoding = sys.stdout.encoding
    sys.stdout = io.TextIOWrapper(output, encoding, "backslashreplace", line_buffering=True)


def drop_output() -> None:
    """Redirect standard output to /dev/null. Call this after output could not be written.

    Otherwise Python would try again to write the output when it exits, and report the error again.
    """
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    os.dup2(null, sys.stdout.fileno())
    os.close(null)


class _Output(io.FileIO):
    def write(self, data: Any) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            return len(data)
