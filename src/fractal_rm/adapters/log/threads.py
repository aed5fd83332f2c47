"""The threads of a journal, and the interface of a worker thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class Worker(Protocol):
    """A thread that runs blocking calls, one after the other."""

    def start(self) -> None:
        """Start the thread. Call this on the event loop that will get the results."""
        ...

    def end(self) -> None:
        """Wait until all calls are done, then stop the thread."""
        ...

    def run(self, work: Callable[[], Any]) -> Awaitable[Any]:
        """Run ``work`` on the thread. The awaitable returns its result or raises its exception."""
        ...


class Threads:
    """``syncing`` syncs the log and searches keys. ``projecting`` writes the history."""

    def __init__(self, syncing: Worker, projecting: Worker) -> None:
        self.syncing = syncing
        self.projecting = projecting

    def start(self) -> None:
        """Start both threads."""
        self.syncing.start()
        self.projecting.start()

    def end(self) -> None:
        """Wait until the calls of both threads are done, then stop the threads."""
        self.syncing.end()
        self.projecting.end()
