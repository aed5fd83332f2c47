"""Peers, a balancer and telemetry that do what they are told and remember what they were asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from fractal_rm.config.model import Node
from fractal_rm.domain.call import Route
from fractal_rm.domain.errors import CallFailed, ConnectFailed, PublishFailed
from fractal_rm.domain.facts import AnyFact, Dead, Settled
from fractal_rm.domain.run import Run
from fractal_rm.engine.ports import Receipt

Take = Callable[[Node, Run, str], Awaitable[Receipt | None]]


class MemoryPeers:
    """Port `Peers`. ``take`` answers an offer; without one, no peer can be reached.

    ``ours``: whether a node of this program is recognized there, or an error.
    """

    def __init__(self, take: Take | None = None) -> None:
        self.take = take
        self.ours: bool | CallFailed = True
        self.questions = 0  # whether it is recognized
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
    """Port `KnownPeers`. Forgets everything at its end."""

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


class MemoryPublisher:
    """Port `Publisher`. Remembers what it was given, unless it is ``down``."""

    def __init__(self, *, down: bool = False) -> None:
        self.down = down
        self.published: list[tuple[str, bytes, bytes | None]] = []  # topic, body, correlation

    async def publish(self, topic: str, body: bytes, *, correlation: bytes | None = None) -> None:
        """Publish once; see the port."""
        if self.down:
            raise PublishFailed("the broker is down")
        self.published.append((topic, body, correlation))


class MemoryBalancer:
    """Port `Balancer`. Says ``answer``, or raises it."""

    def __init__(self, answer: str | Exception | None = None) -> None:
        self.answer = answer
        self.asked = 0

    async def ask(self, route: Route) -> str | None:  # noqa: ARG002 - there is one balancer
        """Ask once; see the port."""
        self.asked += 1
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


class QuietTelemetry:
    """Port `Telemetry`. Keeps the names of what happened."""

    def __init__(self) -> None:
        self.events: list[str] = []

    def event(self, name: str, **fields: object) -> None:  # noqa: ARG002
        """Something happened."""
        self.events.append(name)

    def problem(self, name: str, **fields: object) -> None:  # noqa: ARG002
        """Something went wrong."""
        self.events.append(name)


class SettledRuns:
    """Port `Observer`. Keeps the runs that have ended, and how long each took."""

    kinds: frozenset[type[AnyFact]] = frozenset({Settled, Dead})

    def __init__(self, steady_ms: Callable[[], int]) -> None:
        self.settled: list[Run] = []
        self.took_ms: dict[str, int] = {}
        self._steady_ms = steady_ms

    def written(self, run: Run, fact: AnyFact, at_ms: int) -> None:  # noqa: ARG002
        """A run ended."""
        self.settled.append(run)
        self.took_ms[run.id] = self._steady_ms() - run.steady_ms
