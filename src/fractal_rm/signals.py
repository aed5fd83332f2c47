"""What signals do to a running node: the table is in docs/how-to/operate.md."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from fractal_rm.domain.none_left import none_left

if TYPE_CHECKING:  # so that signals are right before the rest of the program is loaded
    from fractal_rm.engine.ports import Telemetry

# uvloop may tell of one signal twice, where another one comes at the same moment.
SECOND_AFTER_S = 0.1
LOOK_AGAIN_S = 1.0  # for the terminal, where no file descriptor is free to look

STOP = (signal.SIGTERM, signal.SIGINT)
STOP_ONCE = (signal.SIGXCPU, signal.SIGPWR)  # a limit, a power supply: they may come again
# What the kernel does with these is right: faults of ours, what nobody can refuse, and what stops a
# process in its terminal and has it go on.
LEFT_ALONE = (
    *(signal.SIGSEGV, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGABRT, signal.SIGTRAP),
    *(signal.SIGSYS, signal.SIGKILL, signal.SIGSTOP, signal.SIGTSTP, signal.SIGCONT),
    *(signal.SIGCHLD, signal.SIGQUIT),
)
# All others are for programs that ask for them, and reach a node by mistake: timers, SIGUSR1 and
# SIGUSR2, the terminal's SIGTTIN and SIGTTOU. Their default is to end a process, or to stop it.
NOT_FOR_US = signal.valid_signals() - {*STOP, *STOP_ONCE, signal.SIGHUP, *LEFT_ALONE}


def ignore_stray_signals() -> None:
    """From now on only what a node acts upon reaches it, and that does.

    Call it before the program is loaded, which takes seconds on a small machine. Who started it may
    have blocked signals, which is inherited.
    """
    for number in NOT_FOR_US:
        signal.signal(number, signal.SIG_IGN)
    for number in (*STOP, *STOP_ONCE):
        signal.signal(number, _end_unbegun)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        signal.signal(signal.SIGHUP, _read_anyway)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def _end_unbegun(_number: int, _frame: FrameType | None) -> None:
    """Nothing is under way yet. To the first process of a container, SIGTERM does nothing else."""
    raise SystemExit(0)


def _read_anyway(_number: int, _frame: FrameType | None) -> None:
    """At a start, which reads the configuration, SIGHUP asks for nothing more."""


class Signals:
    """Those that a node acts upon. ``stop`` is set when it is to stop in order (G6).

    ``reread`` is called at SIGHUP, ``end_now`` at a second SIGTERM or SIGINT, at least
    `SECOND_AFTER_S` after the first.
    """

    def __init__(
        self,
        telemetry: Telemetry,
        *,
        reread: Callable[[], None],
        end_now: Callable[[], None],
        monotonic_s: Callable[[], float],
    ) -> None:
        self._telemetry = telemetry
        self._reread = reread
        self._end_now = end_now
        self._had_terminal = _has_terminal()
        self._monotonic_s = monotonic_s
        self._told_s: float | None = None
        self.stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in STOP:
            loop.add_signal_handler(number, self._told_to_stop)
        for number in STOP_ONCE:
            loop.add_signal_handler(number, self.stop.set)
        if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # nohup asks for that
            loop.add_signal_handler(signal.SIGHUP, self._hung_up)

    def _told_to_stop(self) -> None:
        now_s = self._monotonic_s()
        if self._told_s is None:
            self._told_s = now_s
            self.stop.set()
        elif now_s - self._told_s >= SECOND_AFTER_S:
            self._telemetry.event("ended_by_second_signal")
            self._end_now()

    def _hung_up(self) -> None:
        """Two meanings: somebody asks to read again, or the terminal that it ran in is closed."""
        try:
            is_closed = self._had_terminal and not _has_terminal()
        except OSError:
            asyncio.get_running_loop().call_later(LOOK_AGAIN_S, self._hung_up)
            return
        if is_closed:
            self._telemetry.event("terminal_closed")
            self.stop.set()
        else:
            self._telemetry.event("told_to_read_again")
            self._reread()


def _has_terminal() -> bool:
    """Whether this process has a controlling terminal. Raises OSError where it cannot look now."""
    try:
        os.close(os.open("/dev/tty", os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK))
    except OSError as error:
        if none_left(error):
            raise
        return False
    return True
