"""Pace: limits the runs in flight while this node is slower than its components.

While the components are slow, more runs in flight finish more work. While this node is slow, more
runs in flight only use more connections and fill the processor's caches: a flow then takes 5 % more
CPU time, and each run takes longer.

`Pace` detects a slow node in each turn of the event loop: many of the runs in flight got an answer
in the same turn, so these answers had to wait for this node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.domain.admission import Load

ALWAYS_ALLOWED = 48  # this many runs may always be in flight
EXTRA_PER_TURN = 8  # runs beyond ALWAYS_ALLOWED that may begin in one turn
SLOW_AT = 8  # this node is slow if one in SLOW_AT runs in flight got an answer in the same turn
QUIET_S = 0.001  # delay of the next dispatch if no answer came in the last turn


class Pace:
    """Counts the answers in each turn of the event loop, and decides whether a run may begin.

    ``dispatch`` is called after `dispatch_later`, at the end of the turn.
    """

    def __init__(self, dispatch: Callable[[], None]) -> None:
        self.answers = 0  # the number of answers in this turn
        self.will_dispatch = False  # whether ``dispatch`` will be called
        self._dispatch = dispatch
        self._extra_runs = 0  # how many runs beyond ALWAYS_ALLOWED may still begin in this turn
        self._was_quiet = False  # whether no answer came in the last turn

    def may_begin(self, in_flight: int) -> bool:
        """Whether one more run may begin."""
        return in_flight < ALWAYS_ALLOWED or self._extra_runs > 0

    def count_begin(self, in_flight: int) -> None:
        """Count a run that begins."""
        if in_flight >= ALWAYS_ALLOWED:
            self._extra_runs -= 1

    def end_turn(self, in_flight: int) -> bool:
        """End a turn. Returns whether no answer came in this turn."""
        was_quiet = not self.answers
        self._extra_runs = EXTRA_PER_TURN if self.answers * SLOW_AT < in_flight else 0
        self.answers = 0
        return was_quiet

    def dispatch_later(self, load: Load) -> None:
        """Dispatch after this turn. If no answer came in the last turn, wait for QUIET_S first."""
        if self.will_dispatch:
            return
        self.will_dispatch = True
        loop = asyncio.get_running_loop()
        if self._was_quiet:
            loop.call_later(QUIET_S, self._on_turn_end, load)
        else:
            loop.call_soon(self._on_turn_end, load)

    def _on_turn_end(self, load: Load) -> None:
        self.will_dispatch = False
        self._was_quiet = self.end_turn(load.in_flight)
        self._dispatch()
