"""Which run begins next: accepted runs wait here until there is a slot for them.

One line for each flow, served in turn, so that a flow with a long line holds up nobody else; how
many slots one flow may hold is `domain.admission.may_begin`. Runs on their last attempt go one at
a time: when the process ends once more, it is known which of them was there.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import Awaitable, Callable
from typing import cast

from fractal_rm.domain.admission import Limits, Load, check_room, may_begin
from fractal_rm.domain.run import Run

RECHECK_S = 1.0
# So many begin in one turn of the event loop. Between turns those in flight go on: a burst is not
# begun all at once, only to stand in flight with a connection each while this node is the slow one.
AT_ONCE = 8
_ALONE = ""  # the line of runs on their last attempt: no flow has an empty id


Carry = Callable[[Run], Awaitable["float | None"]]


class WaitingRoom:
    """Bounded by ``limits`` (G5). Nothing begins before it is opened."""

    def __init__(self, limits: Limits) -> None:
        self.load = Load()
        self.limits = limits
        self._lines: dict[str, deque[Run]] = {}
        self._turn: deque[str] = deque()  # the lines that have somebody in them, next first
        self._in_flight: Counter[str] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: dict[asyncio.Future[None], None] = {}  # in the order of their coming
        self._idle = asyncio.Event()
        self._idle.set()
        self._carry: Carry | None = None
        self._loop: asyncio.AbstractEventLoop
        self._begun = 0  # in this turn of the loop

    # --- places: taken before the journal is asked, so that what it holds is bounded too ------

    def reserve(self, size: int) -> None:
        """Take a place for a trigger of ``size`` bytes. Raises Busy."""
        check_room(self.load, self.limits, size)
        self.load.waiting += 1
        self.load.held_bytes += size

    def give_back(self, size: int) -> None:
        """Return a place that was not needed."""
        self.load.waiting -= 1
        self.load.held_bytes -= size
        self._tell_next()

    def readmit(self, run: Run, *, alone: bool = False) -> None:
        """Take in a run that the journal held: it was accepted, so no bound refuses it now."""
        self.load.waiting += 1
        self.load.held_bytes += run.payload_bytes
        self.join(run, alone=alone)

    def hold_result(self, size: int) -> None:
        """A result of ``size`` bytes has come to a run in flight."""
        self.load.result_bytes += size

    async def wait_for_room(self) -> None:
        """Return when a place has become free, first come, first served; or after RECHECK_S.

        What refused may have been something else, a full disk for example, which tells nobody
        when it ends.
        """
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._refused[turn] = None
        try:
            await asyncio.wait((turn,), timeout=RECHECK_S)
        finally:
            self._refused.pop(turn, None)

    def _tell_next(self) -> None:
        if self._refused:
            turn = next(iter(self._refused))
            del self._refused[turn]
            turn.set_result(None)

    # --- the line -----------------------------------------------------------------------------

    def join(self, run: Run, *, alone: bool = False) -> None:
        """Stand in line, with a place reserved. It begins at once where there is a slot."""
        self._stand(_ALONE if alone else run.flow.id, run)

    def _stand(self, name: str, run: Run) -> None:
        line = self._lines.get(name)
        if line is None:
            line = self._lines[name] = deque()
        if not line:
            self._turn.append(name)
        line.append(run)
        self._begin_some()

    def open(self, carry: Carry) -> None:
        """Let runs begin; ``carry`` is what is done with a run whose turn it is.

        It returns None when the run has ended, or after how many seconds it wants another turn:
        until then it holds no slot.
        """
        self._carry = carry
        self._loop = asyncio.get_running_loop()  # once, as asking for it is a system call
        self._begin_some()

    def close(self) -> None:
        """Let no further run begin; those in flight go on, and new ones may stand in line."""
        self._carry = None

    async def wait_until_idle(self) -> None:
        """Return when nothing is in flight."""
        await self._idle.wait()

    async def cancel(self) -> None:
        """End what is in flight where it stands; the journal knows how far each run came."""
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # Again, as wait_for may swallow a cancellation (Python before 3.12).
            await asyncio.wait(self._tasks, timeout=0.1)

    def _begin_some(self) -> None:
        """Give free slots to the lines in turn, until no line may have another."""
        refused = 0
        while self._carry is not None and refused < len(self._turn):
            if self.load.in_flight >= self.limits.in_flight or self._begun == AT_ONCE:
                return  # however many lines there are
            name = self._turn.popleft()
            if not self._may_begin(name):
                self._turn.append(name)
                refused += 1
                continue
            refused = 0
            line = self._lines[name]
            run = line.popleft()
            self._begin(name, run, self._carry(run))
            if line:
                self._turn.append(name)
            else:
                del self._lines[name]

    def _next_turn(self) -> None:
        self._begun = 0
        self._begin_some()

    def _may_begin(self, name: str) -> bool:
        of_line = self._in_flight[name]
        if name == _ALONE and of_line:
            return False
        return may_begin(of_line, self.load, self.limits)

    def _begin(self, name: str, run: Run, carried: Awaitable[float | None]) -> None:
        if not self._begun:
            self._loop.call_soon(self._next_turn)
        self._begun += 1
        self.load.waiting -= 1
        self.load.in_flight += 1
        self.load.result_bytes += run.result_bytes  # of an earlier turn, or from before a crash
        self._in_flight[name] += 1
        self._idle.clear()
        task = self._loop.create_task(self._see_through(name, run, carried))
        self._tasks.add(task)

    async def _see_through(self, name: str, run: Run, carried: Awaitable[float | None]) -> None:
        again_s = None
        try:
            again_s = await carried
        finally:
            self.load.in_flight -= 1
            self.load.result_bytes -= run.result_bytes
            if again_s is None:
                self.load.held_bytes -= run.payload_bytes
            else:
                self.load.waiting += 1
                self._loop.call_later(again_s, self._stand, name, run)
            self._in_flight[name] -= 1
            if not self._in_flight[name]:
                del self._in_flight[name]
            self._tell_next()
            if not self.load.in_flight:
                self._idle.set()
            self._begin_some()
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task(self._loop)))
