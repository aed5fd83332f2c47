"""How many runs are worth having in flight.

While components answer slowly, more runs in flight get more done. While this node is the slow one,
more only hold a connection each and push one another out of the processor's caches: a flow takes a
twentieth more CPU then, and a run takes longer.

Which of the two is the case shows in each turn of the event loop: of the runs in flight, how many
had answers that waited for this node.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from fractal_rm.domain.admission import Load

FEW = 48  # so many may always be in flight
MORE_IN_A_TURN = 8
SLOW_AT = 8  # this node is the slow one where one in eight waited for it
QUIET_S = 0.001  # how long it waits to ask again where no answer came


class Pace:
    """Told of each answer and each turn of the loop; says whether one more run may begin.

    ``dispatch`` is called after a turn for which it was asked again.
    """

    def __init__(self, dispatch: Callable[[], None]) -> None:
        self.answers = 0  # in this turn
        self.will_ask = False  # whether ``dispatch`` will be called
        self._dispatch = dispatch
        self._more = 0  # so many may still begin in this turn beyond `FEW`
        self._quiet = False  # whether no answer came in the last turn

    def may_begin(self, in_flight: int) -> bool:
        """Whether one more run may begin."""
        return in_flight < FEW or self._more > 0

    def begins(self, in_flight: int) -> None:
        """Count a run that begins."""
        if in_flight >= FEW:
            self._more -= 1

    def turn(self, in_flight: int) -> bool:
        """A turn has ended. Returns whether no answer has come in it."""
        quiet = not self.answers
        self._more = MORE_IN_A_TURN if self.answers * SLOW_AT < in_flight else 0
        self.answers = 0
        return quiet

    def ask_again(self, load: Load) -> None:
        """Dispatch after this turn of the loop; a little later where the last one was quiet."""
        if self.will_ask:
            return
        self.will_ask = True
        loop = asyncio.get_running_loop()
        if self._quiet:
            loop.call_later(QUIET_S, self._after_turn, load)
        else:
            loop.call_soon(self._after_turn, load)

    def _after_turn(self, load: Load) -> None:
        self.will_ask = False
        self._quiet = self.turn(load.in_flight)
        self._dispatch()
