"""Sends refusals late to machines that send too many refused requests.

So a client that sends one request after the other with a wrong token gets few answers per second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from fractal_rm.web.limits import ConnectionLimits


class LateRefusals:
    """The refusals that wait at this time."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self._limits = limits
        self.count = 0

    def app(self, answer: Any, abort: Callable[[], None]) -> Any:
        """Make an ASGI application that calls ``answer`` late. It must be called at once.

        If too many refusals wait, the connection is aborted.
        """
        if self.count >= self._limits.max_late:
            abort()
            return answer
        self.count += 1

        async def wait_and_answer(scope: Any, receive: Any, send: Any) -> None:
            try:
                await asyncio.sleep(self._limits.late_s)
            finally:
                self.count -= 1
            await answer(scope, receive, send)

        return wait_and_answer
