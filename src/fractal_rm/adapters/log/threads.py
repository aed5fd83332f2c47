"""The interface of a worker thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class Worker(Protocol):
    """A thread that runs blocking calls, one after the other."""

    def start(self) -> None:
        """Start the thread; results are delivered to the running event loop."""
        ...

    def end(self) -> None:
        """Wait until all calls are done, then stop the thread."""
        ...

    def run(self, work: Callable[[], Any]) -> Awaitable[Any]:
        """Run a call on the thread. The awaitable has its result or its exception."""
        ...
