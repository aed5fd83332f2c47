"""Port `Counting`: functions that count what is not a fact, or count facts in batches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Union

from fractal_rm.domain.facts import AnyFact
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.run import Run
from fractal_rm.domain.trigger import Arrival, Trigger
from fractal_rm.engine.ports.ways_in import AcceptedTrigger

WrittenFact = tuple[Run, tuple[int, AnyFact]]  # (run, (time of the fact in ms, fact))
TriggerAnswer = Union[AcceptedTrigger, Refused]
CountFacts = Callable[[Sequence[WrittenFact]], None]


class Counting:
    """Functions that are called on the event loop. Each is None while nobody counts.

    They must not raise, and must return quickly. A process has one instance; `adapters.metrics`
    sets the functions at the first scrape.

    ``facts`` has any number of functions; see `add` and `remove`. Each is called with the facts
    that were written to the journal, in order: those of one turn of the event loop, without the
    first facts of new runs. The runs may have changed since. This takes less time than an observer,
    which is called for each fact.

    ``answers`` is called with triggers that arrived together: how each arrived, what it was decoded
    to (a refusal if it could not be), and its answer. ``synced`` is called with the seconds that a
    sync of the log took. ``traces`` returns how many traces were exported and dropped; None: traces
    are not configured. ``mqtt_message`` is called with the QoS of each received message.
    """

    __slots__ = ("answers", "facts", "mqtt_message", "synced", "traces")

    def __init__(self) -> None:
        self.facts: tuple[CountFacts, ...] = ()
        self.answers: (
            Callable[
                [Sequence[Arrival], Sequence[Trigger | TriggerAnswer], Sequence[TriggerAnswer]],
                None,
            ]
            | None
        ) = None
        self.synced: Callable[[float], None] | None = None
        self.traces: Callable[[], tuple[int, int]] | None = None
        self.mqtt_message: Callable[[int], None] | None = None

    def add(self, count: CountFacts) -> None:
        """Call ``count`` with the facts that are written from now on."""
        self.facts = (*self.facts, count)

    def remove(self, count: CountFacts) -> None:
        """Do not call ``count`` again. Does nothing if it was removed before."""
        self.facts = tuple(each for each in self.facts if each != count)
