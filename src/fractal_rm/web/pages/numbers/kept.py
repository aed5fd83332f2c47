"""Keeps what a question has returned for a while, for all browsers that look at a page."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")

SHARE = 0.02  # of the time, at most, is spent on one question


class Kept(Generic[T]):
    """The answer of ``ask``, which is asked at most once in ``kept_s`` seconds.

    A question that takes long is asked less often. ``now_s`` is a clock that does not go back.
    """

    def __init__(
        self, ask: Callable[[], Awaitable[T]], kept_s: float, now_s: Callable[[], float]
    ) -> None:
        self._ask = ask
        self._kept_s = kept_s
        self._now_s = now_s
        self._until_s: float | None = None
        self._answer: T
        self._one_at_a_time = asyncio.Lock()

    async def get(self) -> T:
        """The answer. Raises what ``ask`` raises; then the next call asks again."""
        async with self._one_at_a_time:
            began_s = self._now_s()
            if self._until_s is None or began_s >= self._until_s:
                self._answer = await self._ask()
                now_s = self._now_s()
                self._until_s = now_s + max(self._kept_s, (now_s - began_s) / SHARE)
            return self._answer
