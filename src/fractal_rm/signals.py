"""Handles signals. docs/how-to/operate.md has a table of all signals."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from fractal_rm.domain.descriptors import is_out_of_descriptors

if TYPE_CHECKING:  # not imported at run time: this module is used before the others are loaded
    from fractal_rm.engine.ports import Telemetry

# For this time after the first SIGTERM or SIGINT, another one is ignored: uvloop may report one
# signal twice if another signal arrives at the same time.
SECOND_AFTER_S = 0.1
RETRY_S = 1.0  # the pause before the terminal is checked again if no file descriptor was free

STOP = (signal.SIGTERM, signal.SIGINT)
# These signals stop the node, too. They may be sent repeatedly (a CPU limit, a failing power
# supply), so a second one does not end the process immediately.
STOP_ONCE = (signal.SIGXCPU, signal.SIGPWR)
# Signals whose default action is kept: faults of the program, signals that cannot be handled, and
# signals that stop and continue a process in its terminal.
DEFAULT = (
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP),
    *(signal.SIGSYS, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT),
    *(signal.SIGCHLD, signal.SIGQUIT),
)
# This signal sets the log level debug, and sets it back. It is ignored until the node runs.
DEBUG_SIGNAL = signal.SIGUSR1
# All other signals are sent to a node only by mistake, such as signals of timers, SIGUSR2, and
# SIGTTIN and SIGTTOU of the terminal. Their default action would end or stop the process.
IGNORED = signal.valid_signals() - {*STOP, *STOP_ONCE, signal.SIGHUP, *DEFAULT}


def ignore_stray_signals() -> None:
    """Set the signal actions that apply until the node runs, and unblock all signals.

    Call this function before the program is loaded, because loading takes seconds on a small
    machine. Signals may be blocked because a process inherits blocked signals from its parent.
    """
    for number in IGNORED:
        signal.signal(number, signal.SIG_IGN)
    for number in (*STOP, *STOP_ONCE):
        signal.signal(number, _exit_at_start)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _do_nothing_at_start)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _exit_at_start(_number: int, _frame: FrameType | None) -> None:
    """Exit, as no work has begun. By default, process 1 of a container would ignore SIGTERM."""
    raise SystemExit(0)


def _do_nothing_at_start(_number: int, _frame: FrameType | None) -> None:
    """Ignore SIGHUP: the starting node will read the configuration anyway."""


class Signals:
    """The signal handlers of a running node.

    The event ``stop`` is set when a signal asks the node to finish its runs in flight and end.
    ``reread`` is called at SIGHUP, unless the terminal was closed. ``toggle_debug`` is called at
    SIGUSR1. ``end_now`` is called at a
    second SIGTERM or SIGINT that arrives at least `SECOND_AFTER_S` after the first one.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        reread: Callable[[], None],
        end_now: Callable[[], None],
        monotonic_s: Callable[[], float],
        toggle_debug: Callable[[], None],
    ) -> None:
        self._telemetry = telemetry
        self._reread = reread
        self._end_now = end_now
        self._had_terminal = _has_terminal()
        self._monotonic_s = monotonic_s
        self._first_stop_s: float | None = None
        self.stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in STOP:
            loop.add_signal_handler(number, self._on_stop)
        for number in STOP_ONCE:
            loop.add_signal_handler(number, self.stop.set)
        loop.add_signal_handler(DEBUG_SIGNAL, toggle_debug)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup sets SIG_IGN
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _on_stop(self) -> None:
        now_s = self._monotonic_s()
        if self._first_stop_s is None:
            self._first_stop_s = now_s
            self.stop.set()
        elif now_s - self._first_stop_s >= SECOND_AFTER_S:
            self._telemetry.event("ended_by_second_signal")
            self._end_now()

    def _on_hangup(self) -> None:
        """Handle SIGHUP: stop if the terminal of the node was closed, otherwise reload."""
        try:
            is_closed = self._had_terminal and not _has_terminal()
        except OSError:
            asyncio.get_running_loop().call_later(RETRY_S, self._on_hangup)
            return
        if is_closed:
            self._telemetry.event("terminal_closed")
            self.stop.set()
        else:
            self._telemetry.event("reload_requested")
            self._reread()


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal. Raises OSError if no descriptor is free."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        if is_out_of_descriptors(error):
            raise
        return False
    return True
