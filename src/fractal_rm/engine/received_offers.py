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
from fractal_rm.domain.trigger import Trigger
from fractal_rm.engine.condition import Condition
from fractal_rm.engine.definitions import Definitions
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.offer_memory import OfferMemory
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import ExistingRun


class ReceivedOffers:
    """Decides about offers; the rules are in `domain.handoff.receiver`."""

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
        self._memory = OfferMemory(lambda: dependencies.random.token(8).hex())

    @property
    def boot(self) -> str:
        """The id of this start of the node."""
        return self._memory.boot

    async def find(self, offer: ReceivedOffer, trigger: Trigger) -> ExistingRun | None:
        """The run of an offer that this node has taken before, or None.

        Raises OwnRun, SameNodeId and JournalBlocked.
        """
        try:
            own = self._runs.get(offer.run)
            check_not_own(offer, self._dependencies.node_id, has_offered=has_offered(own))
        except Refused as refusal:
            raise self.refuse(offer, refusal) from None
        if offer.boot == self.boot and not self._memory.may_have_accepted(offer.key):
            return None  # a fast path: an offer for this boot cannot be older
        retention_ms = self._dependencies.clock.read().retention_ms
        return await self._dependencies.journal.find(
            offer.key, retention_ms, offer.run, trigger.digest()
        )

    def check(self, offer: ReceivedOffer, flow: Flow | None, flow_id: str) -> None:
        """Raise Refused if an offer is not accepted. Its run is not in the journal."""
        key = offer.key
        if self._memory.has_just_accepted(key):
            return  # another copy of this offer was accepted meanwhile; the journal finds its run
        definition = "" if flow is None else self._definitions.of(flow)
        receiver = self._receiver(key)
        check_known(offer, receiver)
        try:
            check_offer(offer, receiver, flow, definition, flow_id)
        except Refused as refusal:
            raise self.refuse(offer, refusal) from None

    def refuse(self, offer: ReceivedOffer, refusal: Refused) -> Refused:
        """Return a refusal. If it is lasting, remember it, and name the offer in it."""
        if not is_lasting(offer, self._receiver(offer.key)):
            return refusal
        if offer.boot == self.boot:
            self._memory.refuse(offer.key)
        refusal.refused_offer = offer.run, offer.epoch
        return refusal

    def refuse_unread(self, offer: ReceivedOffer, refusal: Refused) -> Refused:
        """Refuse an offer while the journal cannot be searched for its run; see `refuse`."""
        is_certain = not self._memory.may_have_accepted(offer.key)
        if is_certain and is_lasting_unread(offer, self._receiver(offer.key)):
            return self.refuse(offer, refusal)
        return refusal

    def accept(self, offer: ReceivedOffer) -> None:
        """Remember that the run of an offer is given to the journal."""
        self._memory.accept(offer.key)

    def _receiver(self, key: str) -> Receiver:
        dependencies = self._dependencies
        return Receiver(
            node=dependencies.node_id,
            store=dependencies.store_id,
            boot=self.boot,
            remembers_ms=dependencies.config.bounds.dedup_window_s * 1000,
            is_draining=self._condition.stopping or self._condition.draining,
            is_paused=self._condition.paused,
            has_accepted=self._memory.has_just_accepted(key),
            has_refused=self._memory.has_refused(key),
        )
