"""What the journal asks of a thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, Protocol


class Worker(Protocol):
    """A thread that does blocking work, one piece after the other."""

    def start(self) -> None:
        """Begin; results go to the loop that runs now."""
        ...

    def end(self) -> None:
        """Wait until all is done."""
        ...

    def run(self, work: Callable[[], Any]) -> Awaitable[Any]:
        """Have work done; returns or raises what it does."""
        ...
