"""Offers of other nodes: which are known, which are refused, and which become runs."""

from __future__ import annotations

from fractal_rm.domain.flow import Flow
from fractal_rm.domain.handoff.messages import ReceivedOffer
from fractal_rm.domain.handoff.receiver import (
    Receiver,
    check_known,
    check_not_own,
    check_offer,
    has_offered,
    is_lasting,
    is_lasting_unread,
)
from fractal_rm.domain.refusals import Refused
from fractal_rm.engine.condition import Condition
from fractal_rm.engine.definitions import Definitions
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import ExistingRun

MAX_REMEMBERED = 10_000  # refused and accepted offers, each


class ReceivedOffers:
    """Decides about offers; the rules are in `domain.handoff.receiver`.

    ``boot`` is the id of this start of the node. Refused offers are remembered until it changes.
    """

    def __init__(
        self,
        dependencies: Dependencies,
        runs: OpenRuns,
        condition: Condition,
        definitions: Definitions,
    ) -> None:
        self._dependencies = dependencies
        self._runs = runs
        self._condition = condition
        self._definitions = definitions
        self.boot = self._new_boot()
        self._refused: set[str] = set()
        self._accepted: dict[str, None] = {}  # the last ones, oldest first

    def _new_boot(self) -> str:
        return self._dependencies.random.token(8).hex()

    async def find(self, offer: ReceivedOffer, digest: str) -> ExistingRun | None:
        """The run of an offer that this node has taken before, or None.

        ``digest`` is that of the trigger.

        Raises OwnRun, SameNodeId and JournalBlocked, and OtherStore or Forgotten if the node cannot
        know whether it has taken the run.
        """
        receiver = self._receiver(offer)
        try:
            check_not_own(offer, receiver)
        except Refused as refusal:
            raise self.refuse(offer, refusal) from None
        retention_ms = self._dependencies.clock.read().retention_ms
        existing = await self._dependencies.journal.find(offer.key, retention_ms, offer.run, digest)
        if existing is None:
            check_known(offer, receiver)
        return existing

    def check(self, offer: ReceivedOffer, flow: Flow | None, flow_id: str) -> None:
        """Raise Refused if an offer is not accepted. Its run is not in the journal."""
        if offer.key in self._accepted:
            return  # another copy of this offer was accepted meanwhile; the journal finds its run
        definition = "" if flow is None else self._definitions.of(flow)
        try:
            check_offer(offer, self._receiver(offer), flow, definition, flow_id)
        except Refused as refusal:
            raise self.refuse(offer, refusal) from None

    def refuse(self, offer: ReceivedOffer, refusal: Refused) -> Refused:
        """Return a refusal. If it is lasting, remember it, and name the offer in it."""
        if not is_lasting(offer, self._receiver(offer)):
            return refusal
        if offer.boot == self.boot:
            if len(self._refused) >= MAX_REMEMBERED:
                self.boot, self._refused = self._new_boot(), set()
            else:
                self._refused.add(offer.key)
        refusal.refused_offer = offer.run, offer.epoch
        return refusal

    def refuse_unread(self, offer: ReceivedOffer, refusal: Refused) -> Refused:
        """Refuse an offer while the journal cannot be searched for its run; see `refuse`."""
        knows = len(self._accepted) < MAX_REMEMBERED
        if knows and is_lasting_unread(offer, self._receiver(offer)):
            return self.refuse(offer, refusal)
        return refusal

    def accept(self, offer: ReceivedOffer) -> None:
        """Remember that the run of an offer is given to the journal."""
        self._accepted[offer.key] = None
        if len(self._accepted) > MAX_REMEMBERED:
            del self._accepted[next(iter(self._accepted))]

    def _receiver(self, offer: ReceivedOffer) -> Receiver:
        dependencies, own = self._dependencies, self._runs.get(offer.run)
        return Receiver(
            node=dependencies.node_id,
            store=dependencies.store_id,
            boot=self.boot,
            remembers_ms=dependencies.config.bounds.dedup_window_s * 1000,
            is_draining=self._condition.stopping or self._condition.draining,
            is_paused=self._condition.paused,
            has_offered=has_offered(own),
            has_accepted=offer.key in self._accepted,
            has_refused=offer.key in self._refused,
        )
