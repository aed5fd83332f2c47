"""Triggers on their way to the journal: decoded, and then runs that are not yet durable."""

from __future__ import annotations

import asyncio
from typing import Union

import msgspec

from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.refusals import Refused
from fractal_rm.domain.run import Run
from fractal_rm.domain.trigger import Trigger
from fractal_rm.engine.ports import AcceptedTrigger, AcceptFuture, NewRun


class PendingRun(msgspec.Struct):
    """A run that was given to the journal; ``written`` is done when the run is durable.

    ``trigger`` is the trigger of the run; None for the run of a RUN step.
    """

    run: Run
    entry: NewRun
    written: AcceptFuture
    trigger: Trigger | None = None

    def is_durable(self) -> bool:
        """Whether the journal has written the run. False for a duplicate, and after an error."""
        try:
            return self.written.result() is None
        except (JournalBlocked, asyncio.CancelledError, asyncio.InvalidStateError):
            return False


Decoded = Union[Trigger, AcceptedTrigger, Refused]  # a trigger, or its answer
Pending = Union[PendingRun, AcceptedTrigger, Refused]  # a run of a trigger, or its answer
