"""How many runs are worth having in flight: no clock, no I/O.

While components answer slowly, more runs in flight get more done. While this node is the slow one,
more only hold a connection each and push one another out of the processor's caches: a flow takes a
twentieth more CPU then, and a run takes longer.

Which of the two it is shows in each turn of the event loop: of the runs in flight, how many had
their answers waiting for us.
"""

from __future__ import annotations

FEW = 48  # so many may always be in flight
MORE_IN_A_TURN = 8
SLOW_AT = 8  # this node is the slow one where one in eight was waiting for it


class Pace:
    """Told of each answer and each turn; says whether one more run may begin."""

    def __init__(self) -> None:
        self.answers = 0  # in this turn
        self._more = 0  # so many may still begin in it beyond `FEW`

    def may_begin(self, in_flight: int) -> bool:
        """Whether one more may, as far as this is concerned."""
        return in_flight < FEW or self._more > 0

    def begins(self, in_flight: int) -> None:
        """One more does."""
        if in_flight >= FEW:
            self._more -= 1

    def turn(self, in_flight: int) -> bool:
        """A turn has ended. Returns whether it was quiet: no answer has come in it."""
        quiet = not self.answers
        self._more = MORE_IN_A_TURN if self.answers * SLOW_AT < in_flight else 0
        self.answers = 0
        return quiet
