"""The newest live events. A client that connects again gets those that it has missed."""

from __future__ import annotations

import re
from collections import deque
from itertools import islice

import msgspec

from fractal_rm.web.live.topic import Topic

SIZE = 4_096
_ID = re.compile(r"([0-9a-f]{1,32})-([0-9]{1,15})")


class Event(msgspec.Struct, frozen=True):
    """One event. ``number`` counts from 1. ``data`` is its JSON."""

    number: int
    topics: tuple[Topic, ...]
    data: bytes


class Ring:
    """Keeps `SIZE` events. ``boot`` identifies this start of the process in the ids of events."""

    def __init__(self, boot: str) -> None:
        self._boot = boot
        self._events: deque[Event] = deque(maxlen=SIZE)
        self.last = 0  # the number of the newest event

    def add(self, topics: tuple[Topic, ...], data: bytes) -> None:
        """Add an event. The oldest one is dropped if there are too many."""
        self.last += 1
        self._events.append(Event(self.last, topics, data))

    def clear(self) -> None:
        """Drop all events: changes were not gathered for a while, so an earlier id is not valid.

        The number of the newest event grows, so that its id is not valid either.
        """
        self._events.clear()
        self.last += 1

    def id_of(self, number: int) -> str:
        """The id of an event, for `Last-Event-ID`."""
        return f"{self._boot}-{number}"

    def number_of(self, event_id: str) -> int | None:
        """The number of an event. None: the id is unknown, or later events were dropped."""
        match = _ID.fullmatch(event_id)
        if match is None or match[1] != self._boot:
            return None
        number = int(match[2])
        return number if self.has_all_after(number) and number <= self.last else None

    def has_all_after(self, number: int) -> bool:
        """Whether no event after this one was dropped."""
        return number >= self.last - len(self._events)

    def after(self, number: int) -> list[Event]:
        """The events after this one that are kept."""
        missing = self.last - number
        return list(islice(self._events, max(len(self._events) - missing, 0), None))
