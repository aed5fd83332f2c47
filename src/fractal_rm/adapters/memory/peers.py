"""Peers without a network, and the record of which are known."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fractal_rm.config.model import Node
from fractal_rm.domain.call import Route
from fractal_rm.domain.errors import CallFailed, ConnectFailed
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Receipt

Take = Callable[[Node, Run, str], Awaitable[Receipt | None]]


class MemoryPeers:
    """Port `Peers`. ``take`` answers offers; without it, no peer can be reached.

    ``ours`` is the result of `recognize`, or an exception that it raises.
    """

    def __init__(self, take: Take | None = None) -> None:
        self.take = take
        self.ours: bool | CallFailed = True
        self.questions = 0  # how often `recognize` was called
        self.offers: list[tuple[str, str, int]] = []  # node, run, epoch
        self.left_ms: list[int | None] = []  # of each offer
        self.routes: list[Route] = []  # of each offer

    async def offer(
        self, node: Node, route: Route, run: Run, sender: str, *, left_ms: int | None = None
    ) -> Receipt | None:
        """Offer once; see the port."""
        self.routes.append(route)
        self.left_ms.append(left_ms)
        self.offers.append((node.id, run.id, run.epoch))
        if self.take is None:
            raise ConnectFailed(f"{node.offer.origin}: connection refused")
        return await self.take(node, run, sender)

    async def recognize(self, node: Node) -> bool:  # noqa: ARG002 - all are alike
        """Ask once; see the port."""
        self.questions += 1
        if isinstance(self.ours, CallFailed):
            raise self.ours
        return self.ours


class MemoryKnownPeers:
    """Port `KnownPeers`, in memory only."""

    def __init__(self, *addresses: str) -> None:
        self._known = set(addresses)

    def has(self, address: str) -> bool:
        """Whether a receipt was given there; see the port."""
        return address in self._known

    async def add(self, address: str) -> None:
        """Remember an address; see the port."""
        self._known.add(address)

    async def remove(self, address: str) -> None:
        """Forget an address; see the port."""
        self._known.discard(address)
