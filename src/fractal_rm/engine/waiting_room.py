"""Which run begins next: accepted runs wait here until there is a slot for them.

Whose turn it is: `engine.lines`. How many slots one flow may hold: `domain.admission.may_begin`.
Runs on their last attempt go one at a time: when the process ends once more, it is known which of
them was there. What a flow says of how its runs wait (`domain.flow.Queueing`) is kept to here; a
run that is not to begin any more is settled from where it stands.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from functools import partial
from typing import Any, cast

from msgspec import UNSET

from fractal_rm.domain.admission import (
    Limits,
    Load,
    as_stale,
    as_superseded,
    check_room,
    may_begin,
    what_it_is_about,
)
from fractal_rm.domain.facts import Settled
from fractal_rm.domain.flow import Flow, Queueing
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import HERE
from fractal_rm.engine.alarms import Alarm, Alarms
from fractal_rm.engine.lines import Lines
from fractal_rm.engine.pace import Pace
from fractal_rm.engine.patience import Patience
from fractal_rm.engine.places import Places

RECHECK_S = 1.0
QUIET_S = 0.001  # so long the pace is left alone where no answer comes

Carry = Callable[[Run], Awaitable["float | None"]]
Taken = tuple[Run, Carry, bool]  # with what is done with it, and whether it goes alone
Settle = Callable[[Run, Settled], Coroutine[Any, Any, None]]


class WaitingRoom:
    """Bounded by ``limits`` (G5). Nothing begins before it is opened.

    ``settle`` tells and writes how a run ended that is not to begin any more. ``places`` counts
    for LIMIT; ``pace`` is told of each answer of a component.
    """

    def __init__(
        self, load: Load, limits: Limits, places: Places, alarms: Alarms, settle: Settle
    ) -> None:
        self.load = load
        self.limits = limits
        self._alarms = alarms
        self._settle = settle
        self._lines = Lines()
        self._patience = Patience(alarms)
        self.places = places
        self._outside: dict[str, tuple[Run, bool, Alarm]] = {}  # and if it goes alone
        self._recalled: set[str] = set()  # runs in flight that want another turn at once
        self._alone = False  # whether a run on its last attempt is in flight
        self._in_hand: set[str] = set()  # in flight, or being settled from the line
        self._tasks: set[asyncio.Task[None]] = set()
        self._refused: dict[asyncio.Future[None], None] = {}  # in the order of their coming
        self._idle = asyncio.Event()
        self._idle.set()
        self._carry: Carry | None = None
        self._loop: asyncio.AbstractEventLoop
        self.pace = Pace()
        self._asking = False  # whether it will be asked again by itself
        self._quiet = False  # whether no answer came in the last turn that it was told of

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
        if run.placement is HERE:
            self.places.away[run.flow.id] += 1
        try:
            self._stand(run, alone=alone, held=True)
        except Exception:
            self.give_back(run.payload_bytes)
            if run.placement is HERE:
                self.places.away[run.flow.id] -= 1
            raise

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

    def join(self, run: Run) -> None:
        """Stand in line, with a place reserved. It begins at once where there is a slot."""
        self._stand(run)

    def _stand(self, run: Run, *, alone: bool = False, held: bool = False) -> None:
        queueing = run.flow.queueing
        if queueing is UNSET or run.begun:
            self._lines.stand(run, alone=alone)
        else:
            self._stand_by_rules(queueing, run, alone=alone, held=held)
        if not self._asking:
            self._begin_some()

    def _stand_by_rules(self, queueing: Queueing, run: Run, *, alone: bool, held: bool) -> None:
        """Stand in the place of an older run about the same, for as long as the flow allows.

        One that was ``held`` in the journal may be the older one, and has waited.
        """
        most = self.limits.evaluated_values
        label = what_it_is_about(run.flow.id, queueing.latest, run.payload, most) or run.id
        other = self._lines.under(label)
        if other is not None:
            if held and run.steady_ms < other.steady_ms:
                self._settle_from_line(run, as_superseded(other.id))
                return
            _ = self._patience.let_off(other.id)
            self._settle_from_line(other, as_superseded(run.id))
        self._lines.stand_under(label, run, alone=alone)
        if queueing.stale_ms is not None:
            left_ms = queueing.stale_ms
            if held:
                left_ms -= max(0, self._alarms.now_ms() - run.steady_ms)
            stale = partial(self._leave_stale, label, run, queueing.stale_ms)
            self._patience.watch(run.id, left_ms, stale)

    def _leave_stale(self, label: str, run: Run, stale_ms: int) -> None:
        self._lines.leave(label)
        self._settle_from_line(run, as_stale(stale_ms))

    def _settle_from_line(self, run: Run, ending: Settled) -> None:
        """It has left the line, or never stood there: write how it ended, and free its place.

        While its sender is still to be told, it is held in memory and keeps its place (G5).
        """
        task = asyncio.get_running_loop().create_task(self._settle(run, ending))
        self._tasks.add(task)
        self._in_hand.add(run.id)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(lambda _: self._in_hand.discard(run.id))
        if run.reply_topic is None:
            self.give_back(run.payload_bytes)
        else:
            task.add_done_callback(lambda _: self.give_back(run.payload_bytes))

    def carried(self) -> set[str]:
        """The ids of all runs that it has: in line, in flight, or on their way back into line."""
        again = self.places.wanted_again
        return {*self._lines.ids(), *self._in_hand, *self._outside, *again}

    def held_up(self) -> Counter[str]:
        """How many runs wait for a place under the LIMIT of a flow, by that flow."""
        return self.places.held_up(self._lines.waiting())

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
        self._patience.close()
        while self._tasks:
            for task in self._tasks:
                task.cancel()
            # Again, as wait_for may swallow a cancellation (Python before 3.12).
            await asyncio.wait(self._tasks, timeout=0.1)

    def _begin_some(self) -> None:
        """Give free slots to the lines in turn, until no line may have another."""
        while (taken := self._take_next()) is not None:
            self._tasks.add(self._loop.create_task(self._see_through(*taken)))

    def _take_next(self) -> Taken | None:
        """The run whose turn it is leaves its line and has a slot; None: none may begin now."""
        while self._carry is not None and self.load.waiting:
            if self.load.in_flight >= self.limits.in_flight:
                return None  # however many lines there are
            if not self.pace.may_begin(self.load.in_flight):
                self._ask_pace_again()
                return None
            taken = self._lines.take(self._may_begin)
            if taken is None:
                return None
            run, alone = taken
            if run.flow.queueing is not UNSET and self._patience.let_off(run.id):
                self._settle_from_line(run, as_stale(run.flow.queueing.stale_ms or 0))
                continue
            self._hold_slot(run, alone=alone)
            return run, self._carry, alone
        return None

    def _ask_pace_again(self) -> None:
        """After this turn of the loop; where no answer came in the one before, a little later."""
        if self._asking:
            return
        self._asking = True
        if self._quiet:
            self._loop.call_later(QUIET_S, self._after_turn)
        else:
            self._loop.call_soon(self._after_turn)

    def _after_turn(self) -> None:
        self._asking = False
        self._quiet = self.pace.turn(self.load.in_flight)
        self._begin_some()

    def _may_begin(self, run: Run, alone: bool) -> bool:
        of_flow = self.places.in_flight[run.flow.id]
        if alone:
            may = not self._alone and may_begin(0, self.load, self.limits)
        else:
            may = may_begin(of_flow, self.load, self.limits)
        # One that stays is one of those that count already.
        return may and (run.placement is HERE or self.places.line_may_begin(run.flow))

    def _hold_slot(self, run: Run, *, alone: bool) -> None:
        self.pace.begins(self.load.in_flight)
        self.load.waiting -= 1
        self.load.in_flight += 1
        self._in_hand.add(run.id)
        self.places.begins(run)
        if run.placement is HERE:
            self.load.result_bytes += run.result_bytes  # of an earlier turn, or before a crash
        if alone:
            self._alone = True
        self._idle.clear()

    async def _see_through(self, run: Run, carry: Carry, alone: bool) -> None:
        """Carry a run, and then those whose turn it is when it has ended: a task for each costs."""
        taken: Taken | None = run, carry, alone
        try:
            while taken is not None:
                run, carry, alone = taken
                again_s = None
                try:
                    again_s = await carry(run)
                finally:
                    self._free_slot(run, again_s, alone=alone)
                taken = self._take_next()
        finally:
            self._tasks.discard(cast("asyncio.Task[None]", asyncio.current_task(self._loop)))
            self._begin_some()

    def _free_slot(self, run: Run, again_s: float | None, *, alone: bool) -> None:
        self.load.in_flight -= 1
        self._in_hand.discard(run.id)
        self.load.result_bytes -= run.result_bytes
        if again_s is None:
            self.load.held_bytes -= run.payload_bytes
        else:
            self._wait_outside(run, again_s, alone=alone)
        self.places.pauses(run, ended=again_s is None)
        if alone:
            self._alone = False
        self._tell_next()
        if not self.load.in_flight:
            self._idle.set()
        if again_s is None:
            self._recalled.discard(run.id)
            if self.places.in_use:
                self.share_places(run)

    def _wait_outside(self, run: Run, again_s: float, *, alone: bool) -> None:
        """It comes back in line later; until then it has no slot, but still counts for its flow."""
        self.load.waiting += 1
        if run.id in self._recalled:
            self._recalled.discard(run.id)
            again_s = 0
        alarm = self._alarms.set(again_s * 1000, partial(self._come_back, run.id))
        self._outside[run.id] = run, alone, alarm

    def _come_back(self, run_id: str) -> None:
        run, alone, alarm = self._outside.pop(run_id)
        alarm.cancel()
        self._stand(run, alone=alone)

    # --- places of flows that other flows run -----------------------------------------------------

    def reconfigured(self, limits: Limits, flows: Mapping[str, Flow]) -> None:
        """Other limits are in force: what they leave room for begins."""
        self.limits, self.places.flows = limits, flows
        self._share(self.places.waited_for)

    def share_places(self, ended: Run) -> None:
        """A run has ended: the line of its flow, and steps that wait to RUN the flow, go on."""
        self._share(self.places.leave(ended))

    def forgo_place(self, run: Run, number: int, flow: str) -> None:
        """A step that asked for a place begins no run: others may have it."""
        if self.places.withdraw(run, number, flow):
            self._share({flow})

    def _share(self, flows: set[str]) -> None:
        self.places.give_again()
        for flow in flows:
            if self.places.line_is_next(flow):
                self._begin_some()
            for run in self.places.grant(flow):
                self._recall(run.id)
        self._begin_some()

    def _recall(self, run_id: str) -> None:
        """Give a run that waits outside another turn at once."""
        if run_id in self._outside:
            self._come_back(run_id)
        else:
            self._recalled.add(run_id)
