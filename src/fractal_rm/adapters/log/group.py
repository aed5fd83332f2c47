"""A group: the calls that are answered together, after one sync."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from itertools import chain
from typing import Any

from fractal_rm.adapters.log.history import KeyQuery
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.engine.ports import ExistingRun, NewRun


class Group:
    """Calls that wait for an answer.

    ``entries`` are calls that accept a new run. ``finds`` are calls that search an existing run.
    ``durable`` are calls that wait until earlier writes are durable.
    """

    __slots__ = ("durable", "entries", "finds")

    def __init__(self) -> None:
        self.entries: list[tuple[NewRun, asyncio.Future[ExistingRun | None]]] = []
        self.finds: list[tuple[KeyQuery, asyncio.Future[ExistingRun | None]]] = []
        self.durable: list[asyncio.Future[None]] = []

    def __len__(self) -> int:
        """The number of waiting calls."""
        return len(self.entries) + len(self.finds) + len(self.durable)

    def answer(
        self,
        entry_answers: Sequence[ExistingRun | None],
        find_answers: Sequence[ExistingRun | None],
    ) -> None:
        """Answer all calls. Each answer is the existing run, or None if there is none."""
        for (_, waiter), existing in zip(self.entries, entry_answers, strict=True):
            if not waiter.done():
                waiter.set_result(existing)
        for (_, waiter), existing in zip(self.finds, find_answers, strict=True):
            if not waiter.done():
                waiter.set_result(existing)
        for waiter in self.durable:
            if not waiter.done():
                waiter.set_result(None)

    def refuse(self, error: JournalBlocked, *, also_durable: bool) -> None:
        """Raise ``error`` in the calls: it is not certain that their new runs were written.

        ``also_durable``: also raise it in the calls that wait until earlier writes are durable.
        """
        durable = self.durable if also_durable else []
        waiters: chain[asyncio.Future[Any]] = chain(
            (waiter for _, waiter in self.entries),
            (waiter for _, waiter in self.finds),
            durable,
        )
        for waiter in waiters:
            if not waiter.done():
                waiter.set_exception(copy_of(error))


def copy_of(blocked: JournalBlocked) -> JournalBlocked:
    """Copy an exception, as the traceback of an object grows each time the object is raised."""
    return type(blocked)(*blocked.args)
