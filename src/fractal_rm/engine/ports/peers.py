"""Other machines: nodes that runs are offered to, and who chooses one."""

from __future__ import annotations

from typing import Protocol

import msgspec

from fractal_rm.config.model import Node
from fractal_rm.domain.call import Route
from fractal_rm.domain.run import Run


class Receipt(msgspec.Struct, frozen=True):
    """A peer of ours holds the run durably."""

    run: str
    epoch: int


class Peers(Protocol):
    """Offers runs to other Runtime Managers."""

    async def offer(
        self, node: Node, route: Route, run: Run, sender: str, *, left_ms: int | None = None
    ) -> Receipt | None:
        """Offer ``run`` under ``run.epoch``. None: a plain peer answered 2xx without a receipt.

        ``route`` is the one of the two of ``node`` that fits what is known of it.
        ``left_ms`` is how long it is worth something, so that the clocks need not agree.

        Raises OfferRefused where the peer certainly has not taken it, CallFailed where no answer
        could be had.
        """
        ...

    async def recognize(self, node: Node) -> bool:
        """Whether a node of this program answers there now. Nothing is executed for the question.

        Raises CallFailed where no answer could be had that tells.
        """
        ...


class KnownPeers(Protocol):
    """The addresses (`Node.address`) at which a node of this program has given a receipt.

    They outlive the process, as far as the disk allows; one that is forgotten is learned again.
    """

    def has(self, address: str) -> bool:
        """Whether one was given there. Never blocks."""
        ...

    async def add(self, address: str) -> None:
        """Remember an address; it counts at once, and is kept when this returns."""
        ...

    async def remove(self, address: str) -> None:
        """Forget an address."""
        ...


class Balancer(Protocol):
    """Knows which node should run something."""

    async def ask(self, route: Route) -> str | None:
        """The id of a node as text, or None for here. Raises CallFailed, BadReply."""
        ...
