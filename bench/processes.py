"""Processes of peers: starts them, waits for a line in their log, and stops them."""

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
    """A process and the file with its output."""

    pid: int
    process: subprocess.Popen[bytes]
    log: Path

    def wait_for_log(self, text: str) -> None:
        """Wait until its log has the text. Raises RuntimeError with the end of the log."""
        deadline = time.monotonic() + READY_WITHIN_S
        while text not in (logged := self.log.read_text(errors="replace")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"its log has no {text!r}, and ends in: {logged[-2000:]}")
            time.sleep(0.01)

    def children(self) -> list[int]:
        """The process ids of its children."""
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # the process has ended
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                if parent == self.pid:
                    found.append(int(stat.parent.name))
        return found


@contextmanager
def running(
    *command: str | Path, log: Path, environment: Mapping[str, str] = {}
) -> Iterator[Running]:
    """Run a command until the end of the block.

    ``environment`` is added to its environment, and its output is written to ``log``. The process
    has a process group of its own, so that its children are killed with it, and Ctrl-C does not
    end it.
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
        with suppress(ProcessLookupError):  # no process of the group is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
