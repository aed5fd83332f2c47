"""Port `Actions`: what operators can do, for commands, the HTTP API and pages alike."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol

import msgspec

from fractal_rm.domain.actions import ActionDone, ActionRequest, BulkRequest


class BulkProgress(msgspec.Struct, frozen=True):
    """How far an action on many runs is. ``refusals`` counts runs by the code of the refusal.

    ``total`` is the number of matching runs, ``done`` and ``refused`` those that were handled.
    ``last_refusal`` is an example of a refusal, as text.
    """

    total: int
    done: int = 0
    refused: int = 0
    refusals: dict[str, int] = {}
    last_refusal: str = ""
    finished: bool = False


class Actions(Protocol):
    """Does what operators ask. What was done is durable when the call returns."""

    async def act(self, request: ActionRequest) -> ActionDone:
        """Do one action. Raises ActionRefused; then nothing was done."""
        ...

    def act_on_all(self, request: BulkRequest) -> AsyncIterator[BulkProgress]:
        """Act on all matching runs, at a limited rate. The first progress has the count only.

        Raises ActionRefused before the first action if the filter is empty, or if the count differs
        too much from ``expect``. Closing the iterator stops after the current run.
        """
        ...
