"""Answers that take longer than a page may take: a page shows the newest one that there is."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)


class Background(Generic[T]):
    """The answer of ``ask``, which is asked in the background, while pages want it.

    After an answer there is a pause: ``kept_s`` seconds, or longer, so that at most the part
    ``share`` of the time is spent on asking. ``now_s`` is a clock that does not go back.
    """

    def __init__(
        self,
        ask: Callable[[], Awaitable[T]],
        kept_s: float,
        now_s: Callable[[], float],
        share: float = 1.0,
    ) -> None:
        self._ask = ask
        self._kept_s = kept_s
        self._now_s = now_s
        self._share = share
        self._due_s: float | None = None
        self._answer: T | None = None
        self._task: asyncio.Task[None] | None = None

    async def latest(self, wait_s: float) -> T | None:
        """The newest answer, after at most ``wait_s``; None: there is none yet.

        Raises what ``ask`` has raised, once; then it is asked again.
        """
        if self._task is None and (self._due_s is None or self._now_s() >= self._due_s):
            self._task = asyncio.create_task(self._run())
        if (task := self._task) is not None:
            _ = await asyncio.wait({task}, timeout=wait_s)
            if task.done():
                self._task = None
                task.result()
        return self._answer

    async def _run(self) -> None:
        began_s = self._now_s()
        self._answer = await self._ask()
        now_s = self._now_s()
        self._due_s = now_s + max(self._kept_s, (now_s - began_s) / self._share)


class Backgrounds(Generic[K, T]):
    """The same for several questions, each with a key. The newest ``most`` of them are kept."""

    def __init__(
        self,
        ask: Callable[[K], Awaitable[T]],
        kept_s: float,
        now_s: Callable[[], float],
        share: float = 1.0,
        most: int = 64,
    ) -> None:
        self._ask = ask
        self._kept_s = kept_s
        self._now_s = now_s
        self._share = share
        self._most = most
        self._by_key: dict[K, Background[T]] = {}

    async def latest(self, key: K, wait_s: float) -> T | None:
        """The newest answer to one of them; see `Background.latest`."""
        background = self._by_key.pop(key, None) or self._make(key)
        self._by_key[key] = background  # it is the newest now
        if len(self._by_key) > self._most:
            del self._by_key[next(iter(self._by_key))]
        return await background.latest(wait_s)

    def _make(self, key: K) -> Background[T]:
        return Background(lambda: self._ask(key), self._kept_s, self._now_s, self._share)
