"""The program in processes of its own, started from one that has it loaded.

Loading the program takes half a second of a small machine's CPU, and tests start it hundreds of
times. So each test process has one process that has loaded it, and that forks whenever the program
is to be started: the copy gets its own arguments, environment, folder and standard streams, and
does from there what the command does. Tests of the start itself run the command.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import struct
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import fractal_rm
from fractal_rm.cli.main import main

COMMAND = (sys.executable, "-m", "fractal_rm.cli.main")
_NUMBER = struct.Struct("=i")  # a process id, then what waitpid says of its end
_MOST_BYTES = 1 << 17
_channel: socket.socket | None = None


class Program:
    """One that was started; the part of subprocess.Popen that tests need."""

    def __init__(self, pid: int, ends: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._ends = ends  # tells of the end

    def poll(self) -> int | None:
        """Its exit code; None: it runs. A signal's number is negative."""
        return self._look(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end. Raises subprocess.TimeoutExpired."""
        code = self._look(None if timeout is None else timeout * 1000)
        if code is None:
            raise subprocess.TimeoutExpired("fractal-rm", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send it a signal, if it runs."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it as a power loss would."""
        self.send_signal(signal.SIGKILL)

    def _look(self, within_ms: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._ends, select.POLLIN)
            if poll.poll(within_ms):
                self.returncode = os.waitstatus_to_exitcode(_read_number(self._ends))
                os.close(self._ends)
        return self.returncode


def start(
    words: Sequence[str], out: IO[bytes], err: IO[bytes], *,
    said: IO[bytes] | None = None, cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Program:  # fmt: skip
    """Start ``fractal-rm`` with arguments; ``said`` is its standard input."""
    what = {"words": list(words), "cwd": str(cwd or Path.cwd()), "env": dict(environ or os.environ)}
    message = json.dumps(what).encode()
    ends, told = os.pipe()
    with Path(os.devnull).open("rb") as nothing:
        standard_input = said or nothing
        files = [each.fileno() for each in (standard_input, out, err)]
        socket.send_fds(_loaded(), [message], [*files, told])
    os.close(told)
    return Program(_read_number(ends), ends)


def run(
    *words: object, said: bytes = b"", cwd: Path | None = None, limit_s: float = 60.0
) -> subprocess.CompletedProcess[bytes]:
    """Run ``fractal-rm`` with arguments to its end, as subprocess.run does."""
    texts = [str(word) for word in words]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(said)
        for each in files:
            each.seek(0)
        program = start(texts, files[1], files[2], said=files[0], cwd=cwd)
        try:
            code = program.wait(limit_s)
        finally:
            program.kill()
        for each in files:
            each.seek(0)
        _, out, err = (file.read() for file in files)
    return subprocess.CompletedProcess([*COMMAND, *texts], code, out, err)


def run_text(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """As `run`, with its output as text."""
    done = run(*words, cwd=cwd)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def _loaded() -> socket.socket:
    """The way to the process that has loaded the program; it ends when this one does."""
    global _channel
    if _channel is None:
        _channel, its = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MOST_BYTES)
        with its:
            subprocess.Popen(
                [sys.executable, __file__, str(its.fileno())], pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
    return _channel


def _read_number(file: int) -> int:
    return _NUMBER.unpack(os.read(file, _NUMBER.size))[0]


# --- in the process that has loaded the program ---------------------------------------------------


def _serve(channel: socket.socket) -> None:
    for module in pkgutil.walk_packages(fractal_rm.__path__, "fractal_rm."):
        importlib.import_module(module.name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those who wait are not waited for
    while True:
        message, files, _, _ = socket.recv_fds(channel, _MOST_BYTES, 4)
        if not message:
            return
        if os.fork() == 0:
            channel.close()
            _wait_for(json.loads(message), *files)
            return
        for each in files:
            os.close(each)


def _wait_for(what: dict, standard_input: int, out: int, err: int, told: int) -> None:
    """Start the program, and tell of its beginning and its end."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(told)
        _become(what, standard_input, out, err)
    for each in (standard_input, out, err):
        os.close(each)
    os.write(told, _NUMBER.pack(pid))
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):  # the test ended before
        os.write(told, _NUMBER.pack(status))
    os._exit(0)


def _become(what: dict, *files: int) -> None:
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(what["env"])
    os.chdir(what["cwd"])
    sys.argv = ["fractal-rm", *what["words"]]
    main()  # ends with sys.exit


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
