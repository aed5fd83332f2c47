"""One run as a client may see it."""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from litestar import Request
from litestar.exceptions import HTTPException

from fractal_rm.domain.access import Scope
from fractal_rm.domain.hidden_values import hide_values
from fractal_rm.engine.ports import History, RunDetail, TimedFact
from fractal_rm.web.api.identity import identity_of


class RunView:
    """Reads runs for clients. Values of runs are hidden from clients without the scope payload."""

    def __init__(self, history: History) -> None:
        self._history = history

    async def detail(self, run_id: str, request: Request[Any, Any, Any]) -> RunDetail:
        """A run with its facts, without the values that the client may not see.

        Raises HTTPException if there is no such run.
        """
        detail = await asyncio.to_thread(self._history.run, run_id)
        if detail is None:
            raise HTTPException(status_code=404, detail=f"no run {run_id[:40]} is in the journals")
        return detail if identity_of(request).may(Scope.PAYLOAD) else _without_values(detail)

    async def encoded(self, run_id: str, request: Request[Any, Any, Any]) -> bytes:
        """The content of the response for a run. Raises HTTPException if there is no such run."""
        return msgspec.json.encode(await self.detail(run_id, request))


def _without_values(detail: RunDetail) -> RunDetail:
    facts = [TimedFact(each.at_ms, hide_values(each.fact)) for each in detail.facts]
    return msgspec.structs.replace(detail, facts=facts)
