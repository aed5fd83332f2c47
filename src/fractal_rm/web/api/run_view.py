"""One run as a client may see it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException

from fractal_rm.domain.access import Scope
from fractal_rm.domain.hidden_values import hide_values
from fractal_rm.engine.ports import Handled, History, RunDetail, RunSummary, TimedFact
from fractal_rm.web.api.identity import identity_of


class RunResponse(RunDetail, frozen=True):
    """A run with its facts, and what became of it.

    ``why`` tells in sentences what happened. ``repeated_by`` are the runs that repeat this run, and
    ``handled`` is what an operator did with it last.
    """

    why: tuple[str, ...] = ()
    repeated_by: tuple[RunSummary, ...] = ()
    handled: Handled | None = None


class RunView:
    """Reads runs for clients. Values of runs are hidden from clients without the scope payload."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def response(self, run_id: str, request: Request[Any, Any, Any]) -> RunResponse:
        """A run with its facts, without the values that the client may not see.

        Raises HTTPException if there is no such run.
        """
        response = await asyncio.to_thread(self._read, run_id)
        if response is None:
            raise HTTPException(status_code=404, detail=f"no run {run_id[:40]} is in the journals")
        return response if identity_of(request).may(Scope.PAYLOAD) else _without_values(response)

    def _read(self, run_id: str) -> RunResponse | None:
        history = self._history
        detail = history.run(run_id)
        if detail is None:
            return None
        handled = history.handled([run_id]).get(run_id)
        repeated_by = tuple(history.replays_of(run_id)) if detail.summary.state.final else ()
        return RunResponse(
            detail.summary, detail.facts, detail.unreadable, (), repeated_by, handled
        )

    async def encoded(self, run_id: str, request: Request[Any, Any, Any]) -> bytes:
        """The content of the response for a run. Raises HTTPException if there is no such run."""
        return msgspec.json.encode(await self.response(run_id, request))


def _without_values(response: RunResponse) -> RunResponse:
    facts = [TimedFact(each.at_ms, hide_values(each.fact)) for each in response.facts]
    return msgspec.structs.replace(response, facts=facts)
