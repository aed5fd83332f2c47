"""What the engine offers to the ways in, and what it needs from each of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import msgspec

from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.run import Outcome
from fractal_rm.domain.state import State
from fractal_rm.domain.trigger import Arrival


class AcceptedTrigger(msgspec.Struct, frozen=True):
    """The answer to a trigger that is durable. ``duplicate``: its id was known, as this run."""

    run: str
    state: State
    duplicate: bool = False
    epoch: int | None = None


class ReadinessCheck(msgspec.Struct, frozen=True):
    """One condition of readiness, with a sentence for the operator."""

    name: str
    ok: bool
    text: str


class Intake(Protocol):
    """The one way in. MQTT, REST and hand-offs all end here."""

    async def receive(self, arrival: Arrival) -> AcceptedTrigger:
        """Take a trigger; it is durable when this returns. Raises Refused."""
        ...

    async def receive_all(self, arrivals: Sequence[Arrival]) -> list[AcceptedTrigger | Refused]:
        """Take triggers that came together, in order; they share what making them durable costs.

        A refusal stands in the place of its arrival.
        """
        ...

    async def set_aside(self, arrival: Arrival, refusal: Refused) -> None:
        """Keep what was refused for good as a dead letter; durable when this returns.

        Raises Busy where even that cannot be written now.
        """
        ...

    async def wait_for_room(self) -> None:
        """Return when a trigger that was refused with Busy may be tried again."""
        ...

    async def outcome(self, run_id: str, timeout_s: float) -> Outcome | None:
        """How a run ended, waiting at most ``timeout_s``; None if it has not by then.

        Knows runs of this process only, and ended ones for a short while.
        """
        ...

    def state_of(self, run_id: str) -> State | None:
        """Where an unfinished run of this process stands, or None."""
        ...

    def readiness(self) -> list[ReadinessCheck]:
        """Everything that must hold before triggers can be taken."""
        ...


class WayIn(Protocol):
    """A way in for triggers: a service that feeds an `Intake`. Stopping twice is legal.

    ``takes_over``: whether it can take the place of one that is open. Otherwise that one is stopped
    first.
    """

    takes_over: bool

    async def start(self, before: WayIn | None = None) -> None:
        """Begin to take triggers, in the place of ``before`` where one is given to take over.

        Raises FractalError where it never can, for example on a port that another program has;
        ``before`` then goes on.
        """
        ...

    async def stop(self) -> None:
        """Take no more, answer what was taken, let go."""
        ...

    def reconfigured(self) -> None:
        """Another configuration is in force, of which this way in's own section is the same."""
        ...

    def status(self) -> ReadinessCheck:
        """Whether triggers can come in this way now."""
        ...
