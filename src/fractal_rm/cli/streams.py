"""Make the standard streams usable if they are closed or nobody reads them."""

from __future__ import annotations

import io
import os
import sys
from typing import Any

_STREAMS = (("stdin", "r"), ("stdout", "w"), ("stderr", "w"))


def open_missing_streams() -> None:
    """Open /dev/null for each standard stream that is closed (``>&-``).

    Otherwise a socket or a file of the journal may get the descriptor number of the stream, and
    output of a library would be written to it. Call this before anything else is opened.
    """
    for number, (name, mode) in enumerate(_STREAMS):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is `number`
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))  # noqa: SIM115


def ignore_broken_pipes() -> None:
    """Let a command finish when the reader of its output has exited (``… | head``).

    So the exit code does not depend on the reader.
    """
    output = io.BufferedWriter(_Output(sys.stdout.fileno(), "w", closefd=False))
    encoding = sys.stdout.encoding
    sys.stdout = io.TextIOWrapper(output, encoding, "backslashreplace", line_buffering=True)


def drop_output() -> None:
    """Redirect standard output to /dev/null. Call this after an error in writing the output.

    Otherwise Python would try to write the output again at exit, and report the error again.
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
