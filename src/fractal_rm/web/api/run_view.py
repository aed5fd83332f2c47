"""One run as a client may see it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException

from fractal_rm.domain.access import Scope
from fractal_rm.domain.masking.facts import masked
from fractal_rm.domain.story import Story
from fractal_rm.engine.ports import Handled, History, RunDetail, RunSummary, TimedFact
from fractal_rm.web.api.identity import identity_of
from fractal_rm.web.stories import Stories


class RunResponse(RunDetail, frozen=True):
    """A run with its facts, and what became of it.

    ``children`` are the runs that its RUN steps started. ``repeated_by`` are the runs that repeat
    it, and ``handled`` is what an operator did with it last. ``story`` tells in sentences what
    happened, why the run is as it is, and what can be done.
    """

    children: tuple[RunSummary, ...] = ()
    repeated_by: tuple[RunSummary, ...] = ()
    handled: Handled | None = None
    story: Story | None = None


class RunView:
    """Reads runs for clients. Values of runs are hidden from clients without the scope payload."""

    def __init__(self, history: History, stories: Stories | None) -> None:
        self._history = history
        self._stories = stories

    async def response(self, run_id: str, request: Request[Any, Any, Any]) -> RunResponse:
        """A run with its facts, without the values that the client may not see.

        Raises HTTPException if there is no such run.
        """
        shows_values = identity_of(request).may(Scope.PAYLOAD)
        response = await asyncio.to_thread(self._read, run_id, shows_values)
        if response is None:
            raise HTTPException(status_code=404, detail=f"no run {run_id[:40]} is in the journals")
        return response

    async def encoded(self, run_id: str, request: Request[Any, Any, Any]) -> bytes:
        """The content of the response for a run. Raises HTTPException if there is no such run."""
        return msgspec.json.encode(await self.response(run_id, request))

    def _read(self, run_id: str, shows_values: bool) -> RunResponse | None:
        history = self._history
        detail = history.run(run_id)
        if detail is None:
            return None
        handled = history.handled([run_id]).get(run_id)
        repeated_by = tuple(history.replays_of(run_id)) if detail.summary.state.final else ()
        children, story = tuple(history.children(run_id)), None
        if self._stories is not None:
            story = self._stories.story(detail, children, repeated_by, shows_values=shows_values)
        facts = detail.facts if shows_values else _without_values(detail.facts)
        return RunResponse(
            detail.summary, facts, detail.unreadable, children, repeated_by, handled, story
        )


def _without_values(facts: list[TimedFact]) -> list[TimedFact]:
    return [TimedFact(each.at_ms, masked(each.fact, shows_values=False)) for each in facts]
