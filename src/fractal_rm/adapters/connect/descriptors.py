"""File descriptors, where all that the process or the machine may have are in use."""

from __future__ import annotations

import asyncio
import errno
import resource
import socket
from collections.abc import Callable

from fractal_rm.domain.none_left import none_left

LOOK_EVERY_S = 0.1  # what other parts of the process or the machine let go is not told


class Descriptors:
    """Those who wait for a descriptor in a line get one in the order in which they came.

    The first ones of several lines take turns.

    ``spare`` closes something that can be done without, if there is anything; ``on_short`` is told
    whether anybody waits. Whoever closes something calls `freed`.
    """

    def __init__(
        self,
        spare: Callable[[], None] = lambda: None,
        on_short: Callable[[bool], None] = lambda _: None,
    ) -> None:
        self._spare = spare
        self._on_short = on_short
        self._turn = asyncio.Lock()  # of the first ones of all lines: who came first has it first
        self._freed = asyncio.Event()
        self._waiting = 0
        self._errno = errno.EMFILE  # why there was none at the last look

    @property
    def short(self) -> bool:
        """Whether anybody waits: whoever comes now waits behind them."""
        return self._waiting > 0

    def freed(self) -> None:
        """A descriptor has perhaps come free."""
        self._freed.set()

    async def get(self, line: asyncio.Lock) -> socket.socket:
        """A socket that holds a descriptor until it is closed; who calls bounds the time."""
        self._waiting += 1
        self._on_short(True)
        try:
            async with line, self._turn:
                while True:
                    self._freed.clear()
                    try:
                        return socket.socket()
                    except OSError as error:
                        if not none_left(error):
                            raise
                        self._errno = error.errno
                    self._spare()
                    await self._look_again()
        finally:
            self._waiting -= 1
            self._on_short(self.short)

    def words(self) -> str:
        """What is in use, and what can be done about it."""
        if self._errno == errno.ENFILE:
            return "all file descriptors of this machine are in use (sysctl fs.file-max)"
        most, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        return f"all file descriptors are in use; this process may have {most} (ulimit -n)"

    async def _look_again(self) -> None:
        try:
            await asyncio.wait_for(self._freed.wait(), LOOK_EVERY_S)
        except asyncio.TimeoutError:
            return
