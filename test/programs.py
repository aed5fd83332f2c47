"""Starts `fractal-rm` quickly, by forking a process that has imported the program already.

Importing the program takes half a second of CPU time on a small machine, and tests start the
program hundreds of times. So each test process starts one loader. The loader imports the program
once, and forks for each start. The forked process gets its own arguments, environment, folder and
standard streams. Then it does the same as the command. Tests of the start run the real command.
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
# For each program, the loader writes two numbers to a pipe: the process id, and at the end the
# status of waitpid.
_NUMBER = struct.Struct("=i")
_MAX_REQUEST_BYTES = 1 << 17
_channel: socket.socket | None = None


class Program:
    """A started program, with the methods of subprocess.Popen that tests need."""

    def __init__(self, pid: int, status_pipe: int) -> None:
        self.pid = pid
        self.returncode: int | None = None
        self._status_pipe = status_pipe  # can be read when the program has ended

    def poll(self) -> int | None:
        """Return the exit code, or minus the number of a signal; None if the program is running."""
        return self._poll(0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the end, and return the exit code. Raises subprocess.TimeoutExpired."""
        code = self._poll(None if timeout is None else timeout * 1000)
        if code is None:
            raise subprocess.TimeoutExpired("fractal-rm", timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal to the program if it is running."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):  # it has ended since
                os.kill(self.pid, number)

    def kill(self) -> None:
        """End the program with SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _poll(self, within_ms: float | None) -> int | None:
        if self.returncode is None:
            poll = select.poll()
            poll.register(self._status_pipe, select.POLLIN)
            if poll.poll(within_ms):
                self.returncode = os.waitstatus_to_exitcode(_read_number(self._status_pipe))
                os.close(self._status_pipe)
        return self.returncode


def start(
    words: Sequence[str], out: IO[bytes], err: IO[bytes], *,
    stdin: IO[bytes] | None = None, cwd: Path | None = None,
    environ: Mapping[str, str] | None = None,
) -> Program:  # fmt: skip
    """Start ``fractal-rm`` with the arguments ``words``."""
    request = {
        "words": list(words),
        "cwd": str(cwd or Path.cwd()),
        "env": dict(environ or os.environ),
    }
    message = json.dumps(request).encode()
    status_pipe, write_end = os.pipe()
    with Path(os.devnull).open("rb") as empty:
        standard_input = stdin or empty
        files = [each.fileno() for each in (standard_input, out, err)]
        socket.send_fds(_loader(), [message], [*files, write_end])
    os.close(write_end)
    return Program(_read_number(status_pipe), status_pipe)


def run(
    *words: object, stdin: bytes = b"", cwd: Path | None = None, limit_s: float = 60.0
) -> subprocess.CompletedProcess[bytes]:
    """Run ``fractal-rm`` with the arguments ``words`` and wait for its end, like subprocess.run.

    Raises subprocess.TimeoutExpired after ``limit_s``.
    """
    arguments = [str(word) for word in words]
    with contextlib.ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(3)]
        files[0].write(stdin)
        for each in files:
            each.seek(0)
        program = start(arguments, files[1], files[2], stdin=files[0], cwd=cwd)
        try:
            code = program.wait(limit_s)
        finally:
            program.kill()
        for each in files:
            each.seek(0)
        _, out, err = (file.read() for file in files)
    return subprocess.CompletedProcess([*COMMAND, *arguments], code, out, err)


def run_text(*words: object, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Like `run`, but the result has the output as text."""
    done = run(*words, cwd=cwd)
    return subprocess.CompletedProcess(
        done.args, done.returncode, done.stdout.decode(), done.stderr.decode()
    )


def _loader() -> socket.socket:
    """Return the socket to the loader, which is started by the first call.

    The loader ends when this process ends, because the socket is closed then.
    """
    global _channel
    if _channel is None:
        _channel, other_end = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        _channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _MAX_REQUEST_BYTES)
        with other_end:
            subprocess.Popen(
                [sys.executable, __file__, str(other_end.fileno())],
                pass_fds=[other_end.fileno()],
                stdin=subprocess.DEVNULL,
            )  # fmt: skip
    return _channel


def _read_number(file: int) -> int:
    (number,) = _NUMBER.unpack(os.read(file, _NUMBER.size))
    return number


# --- in the loader -------------------------------------------------------------------------------


def _serve(channel: socket.socket) -> None:
    """Import the program, then fork for each request until the channel is closed."""
    for module in pkgutil.walk_packages(fractal_rm.__path__, "fractal_rm."):
        importlib.import_module(module.name)
    gc.freeze()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps the children
    while True:
        message, files, _, _ = socket.recv_fds(channel, _MAX_REQUEST_BYTES, 4)
        if not message:
            return
        if os.fork() == 0:
            channel.close()
            _start_and_wait(json.loads(message), *files)
            return
        for each in files:
            os.close(each)


def _start_and_wait(request: dict, stdin: int, out: int, err: int, status_pipe: int) -> None:
    """Start the program and wait for its end. Write its process id and its status to the pipe."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(status_pipe)
        _run_program(request, stdin, out, err)
    for each in (stdin, out, err):
        os.close(each)
    os.write(status_pipe, _NUMBER.pack(pid))
    _, status = os.waitpid(pid, 0)
    with contextlib.suppress(BrokenPipeError):  # the test has ended
        os.write(status_pipe, _NUMBER.pack(status))
    os._exit(0)


def _run_program(request: dict, *files: int) -> None:
    """Run the program in this process, as the request says. ``files`` are the standard streams."""
    for number, file in enumerate(files):
        os.dup2(file, number)
        os.close(file)
    os.environ.clear()
    os.environ.update(request["env"])
    os.chdir(request["cwd"])
    sys.argv = ["fractal-rm", *request["words"]]
    main()  # ends with sys.exit


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
