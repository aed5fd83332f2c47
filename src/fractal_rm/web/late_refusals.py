"""Sends refusals late to machines that send too many refused requests.

So a client that sends one request after the other with a wrong token gets few answers per second.
"""

from __future__ import annotations

import asyncio
from typing import Any

from fractal_rm.web.limits import ConnectionLimits
from fractal_rm.web.problems import Problem, problem_app


class LateRefusals:
    """The refusals that wait at this time."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self.count = 0

    @property
    def is_full(self) -> bool:
        """Whether no further refusal may wait."""
        return self.count >= self._limits.max_late

    def app(self, problem: Problem) -> Any:
        """Make an ASGI application that sends a refusal late. It must be called at once."""
        answer = problem_app(problem)
        self.count += 1

        async def wait_and_answer(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(self._limits.late_s)
            finally:
                self.count -= 1
            await answer(scope, receive, send)

        return wait_and_answer
