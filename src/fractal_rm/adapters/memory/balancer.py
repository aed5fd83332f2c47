"""A load balancer with a fixed answer."""

from __future__ import annotations


class MemoryBalancer:
    """Port `Balancer`. `ask` returns ``answer``, or raises ``answer`` if it is an exception."""

    def __init__(self, answer: str | Exception | None = None) -> None:
        self.answer = answer
        self.ask_count = 0  # how often `ask` was called

    async def ask(self) -> str | None:
        """Return or raise ``answer``; see the port."""
        self.ask_count += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer
