"""Processes that a peer is made of: started, waited for by what they say, and stopped for sure."""

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
    pid: int
    process: subprocess.Popen[bytes]
    log: Path

    def wait_said(self, text: str) -> None:
        """Waits until its log has the text; raises with the log's end if that cannot come."""
        deadline = time.monotonic() + READY_WITHIN_S
        while text not in (said := self.log.read_text(errors="replace")):
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"never said {text!r}; the last it said: {said[-2000:]}")
            time.sleep(0.01)

    def children(self) -> list[int]:
        found = []
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with suppress(OSError):  # it ended meanwhile
                parent = int(stat.read_text().rpartition(")")[2].split()[1])
                if parent == self.pid:
                    found.append(int(stat.parent.name))
        return found


@contextmanager
def running(*command: str | Path, log: Path, also: Mapping[str, str] = {}) -> Iterator[Running]:
    """Runs a command with `also` in its environment, its output in the log.

    It leads a process group of its own: what it leaves behind when it is told to end is ended too,
    and Ctrl-C reaches it only through here.
    """
    with log.open("wb") as out:
        process = subprocess.Popen(
            command, stdout=out, stderr=out, env={**os.environ, **also}, start_new_session=True
        )
    try:
        yield Running(process.pid, process, log)
    finally:
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(STOPPED_WITHIN_S)
        with suppress(ProcessLookupError):  # as it should be: nobody is left
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return probe.getsockname()[1]
