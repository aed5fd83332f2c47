"""Starts the processes of peers, waits for a text in their log, and stops them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
READY_WITHIN_S = 60
STOPPED_WITHIN_S = 10


@dataclass(frozen=True)
class Running:
    """A running process, and the file to which its output is written."""

    pid: int
    process: subprocess.Popen[bytes]
    log: Path

    def wait_for_log(self, text: str) -> None:
        """Wait until the log contains ``text``.

        Raises RuntimeError, with the end of the log, if the process ends or after READY_WITHIN_S.
        """
        deadline = time.monotonic() + READY_WITHIN_S
        while text not in (logged := self.log.read_text(errors="replace")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self.log} does not contain {text!r}. It ends with: {logged[-2000:]}"
                )
            time.sleep(0.01)

    def children(self) -> list[int]:
        """The process ids of the children of this process."""
        children = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # raised if the process has ended
                # After the name of the process: its state, and the process id of its parent.
                _, _, after_name = stat.read_text().rpartition(")")
                _state, parent, *_ = after_name.split()
                if int(parent) == self.pid:
                    children.append(int(stat.parent.name))
        return children


@contextmanager
def running(
    *command: str | Path, log: Path, environment: Mapping[str, str] = {}
) -> Iterator[Running]:
    """Run a command until the end of the block.

    The command gets the variables of this process and of ``environment``. Its output is written to
    ``log``. The command runs in a separate session. So its children can be killed with it, and
    Ctrl-C does not stop it.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=out,
            env={**os.environ, **environment},
            start_new_session=True,
        )
    try:
        yield Running(process.pid, process, log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPPED_WITHIN_S)
        with suppress(ProcessLookupError):  # raised if all processes of the group have ended
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port on which no program listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
