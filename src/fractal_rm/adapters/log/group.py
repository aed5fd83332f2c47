"""What is handed in meanwhile and is answered together, by one sync."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any

from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.engine.ports import Entry, Prior


class Group:
    """Who waits: with a new run, with a key, or for what was handed in before."""

    __slots__ = ("durable", "entries", "finds")

    def __init__(self) -> None:
        self.entries: list[tuple[Entry, asyncio.Future[Prior | None]]] = []
        self.finds: list[tuple[str, int, asyncio.Future[Prior | None]]] = []
        self.durable: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        """How many wait."""
        return len(self.entries) + len(self.finds) + len(self.durable)

    def answer(self, entries: Sequence[Prior | None], finds: Sequence[Prior | None]) -> None:
        """All is durable. For each entry and each key: the run that was there already."""
        for (_, waiter), prior in zip(self.entries, entries, strict=True):
            if not waiter.done():
                waiter.set_result(prior)
        for (*_, waiter), prior in zip(self.finds, finds, strict=True):
            if not waiter.done():
                waiter.set_result(prior)
        for waiter in self.durable:
            if not waiter.done():
                waiter.set_result(None)

    def refuse(self, error: JournalBlocked, *, durable: bool) -> None:
        """Nothing of it was written; ``durable``: who waits for what came before is told, too."""
        waiters: chain[asyncio.Future[Any]] = chain(
            (waiter for _, waiter in self.entries),
            (waiter for *_, waiter in self.finds),
            self.durable if durable else (),
        )
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(again(error))


def again(blocked: JournalBlocked) -> JournalBlocked:
    """To be raised: one that is raised again and again keeps every place where it was."""
    return type(blocked)(*blocked.args)
