"""Accept triggers: decode a message, and make a durable run, or a refusal for the sender."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from typing import TypeVar, cast

import msgspec
from msgspec import UNSET

from fractal_rm.domain.admission import check_same_trigger
from fractal_rm.domain.facts import (
    Accepted,
    AnyFact,
    Dead,
    Received,
)
from fractal_rm.domain.flow import Flow
from fractal_rm.domain.handoff.messages import ReceivedOffer
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.masking.facts import masked
from fractal_rm.domain.refusals import (
    Busy,
    Draining,
    InternalFault,
    JournalUnavailable,
    Refused,
    UnknownFlow,
)
from fractal_rm.domain.run import Run, fold
from fractal_rm.domain.state import State
from fractal_rm.domain.steady import ClockReading
from fractal_rm.domain.trigger import Arrival, Trigger, decode_trigger
from fractal_rm.engine.condition import Condition
from fractal_rm.engine.definitions import Definitions
from fractal_rm.engine.dependencies import Dependencies
from fractal_rm.engine.new_runs import NewRuns
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.pending import Decoded, Pending, PendingRun
from fractal_rm.engine.ports import AcceptedTrigger, ExistingRun, NewRun
from fractal_rm.engine.queue import RunQueue
from fractal_rm.engine.received_offers import ReceivedOffers
from fractal_rm.engine.recorder import Recorder

Value = TypeVar("Value")

DEAD_LETTER_BYTES = 64 * 1024  # at most this much of a refused message is stored


class Acceptance:
    """Decodes triggers, checks for duplicates and room, and gives new runs to the journal."""

    def __init__(
        self,
        dependencies: Dependencies,
        runs: OpenRuns,
        recorder: Recorder,
        queue: RunQueue,
        condition: Condition,
        offers: ReceivedOffers,
        definitions: Definitions,
        new_runs: NewRuns,
    ) -> None:
        self._dependencies = dependencies
        self._condition = condition
        self._offers = offers
        self._definitions = definitions
        self._new_runs = new_runs
        self._runs = runs
        self._recorder = recorder
        self._queue = queue
        self._ids = dependencies.ids

    # --- triggers and hand-offs -----------------------------------------------------------------

    async def decode(self, arrivals: Sequence[Arrival]) -> list[Decoded]:
        """Decode arrivals. Returns, for each arrival, its trigger or its answer.

        An arrival has an answer if it is refused, or if its offer is already known.
        """
        decoded = [self._decode_one(arrival) for arrival in arrivals]
        for index, trigger in enumerate(decoded):
            if isinstance(trigger, Trigger) and trigger.offer is not None:
                decoded[index] = await self._answer_known(trigger, trigger.offer) or trigger
        return decoded

    def journal(self, arrivals: Sequence[Arrival], decoded: Sequence[Decoded]) -> list[Pending]:
        """Reserve room for triggers, and give their runs to the journal, for one fsync."""
        now = self._dependencies.clock.read()
        return [self._journal_one(*each, now) for each in zip(arrivals, decoded, strict=True)]

    async def wait_durable(self, pending: Sequence[Pending]) -> None:
        """Return when all runs are durable, or the journal has refused them."""
        for each in reversed(pending):
            if isinstance(each, PendingRun):
                with suppress(JournalBlocked):  # `answers` returns a refusal for it
                    await each.written  # writes complete in order, so now all are done
                return

    def enqueue(self, pending: Sequence[Pending]) -> None:
        """Queue the runs that are durable, and free the room that the other runs reserved."""
        for each in pending:
            if isinstance(each, PendingRun):
                self._new_runs.enqueue(each)

    def answers(self, pending: Sequence[Pending]) -> list[AcceptedTrigger | Refused]:
        """The answer to each arrival, in order."""
        return [
            self._answer(each, each.trigger)
            if isinstance(each, PendingRun) and each.trigger is not None
            else cast("AcceptedTrigger | Refused", each)
            for each in pending
        ]

    async def set_aside(self, arrival: Arrival, refusal: Refused) -> None:
        """Store a refused message as a dead letter. Raises JournalUnavailable."""
        fact = Dead(
            code=refusal.code,
            reason=f"{refusal.title}: {refusal.reason}",
            source=arrival.source.text,
            body=arrival.body[:DEAD_LETTER_BYTES],
            flow_id=_or_unset(arrival.flow_id),
            content_type=_or_unset(arrival.metadata and arrival.metadata.content_type),
        )
        flow = self._dependencies.config.flows.get(arrival.flow_id or "")
        kept = fact if flow is None else masked(fact, flow.keeping)
        now = self._dependencies.clock.read()
        new_id = self._ids.next(now.id_ms)
        entry = NewRun(new_id, None, now.wall_ms, (kept,), State.DEAD, fact.reason)
        try:
            await self._recorder.accept(entry)
        except JournalBlocked as error:
            raise _unavailable(error) from error
        self._recorder.notify(fold(Run(new_id, Flow(""), now.wall_ms), entry.facts), entry)

    def _decode_one(self, arrival: Arrival) -> Decoded:
        try:
            return decode_trigger(arrival, self._dependencies.config.bounds.max_trigger_bytes)
        except Refused as refusal:
            return refusal
        except Exception as error:  # noqa: BLE001 - other triggers of this call must not fail
            return self._log_fault(error)

    def _journal_one(self, arrival: Arrival, trigger: Decoded, now: ClockReading) -> Pending:
        if not isinstance(trigger, Trigger):
            return trigger
        try:
            return self._new_run(arrival, trigger, now)
        except Refused as refusal:
            return refusal
        except Exception as error:  # noqa: BLE001 - other triggers of this call must not fail
            return self._log_fault(error)

    def _log_fault(self, error: Exception) -> InternalFault:
        self._dependencies.telemetry.problem("message_failed", error=repr(error), exc_info=error)
        return InternalFault(repr(error))

    def _new_run(self, arrival: Arrival, trigger: Trigger, now: ClockReading) -> PendingRun:
        """Make the run of a trigger, and give it to the journal. Raises Refused."""
        flow, offer = self._dependencies.config.flows.get(trigger.flow_id), trigger.offer
        if self._dependencies.journal.blocked is not None:
            refusal = _unavailable(self._dependencies.journal.blocked)
            raise refusal if offer is None else self._offers.refuse_unread(offer, refusal)
        if offer is not None:
            self._offers.check(offer, flow, trigger.flow_id)
        elif self._condition.stopping:
            raise Draining("send the trigger again when the node has started again")
        elif self._condition.draining:
            raise Draining("an operator drains this node; send the trigger to another node")
        if flow is None:
            raise UnknownFlow(f"flows.conf has no flow {trigger.flow_id!r:.60}")
        accepted = Accepted(
            flow=flow.id,
            version=self._definitions.version_of(flow),
            payload=msgspec.Raw(trigger.payload),
            source="peer" if offer else arrival.source.text,
            placed=trigger.placed,
            key=trigger.key,
            ahead_ms=now.ahead_ms or UNSET,
            node=self._dependencies.node_id,
        )
        if trigger.has_options:
            accepted = _with_options(accepted, trigger)
        facts: tuple[AnyFact, ...] = (accepted,)
        if offer:
            facts += (Received(offer.sender, offer.epoch), *offer.steps)
        run_id = offer.run if offer else self._ids.next(now.id_ms)
        key = offer.key if offer else trigger.dedup_key
        digest = trigger.digest() if key is not None else ""
        run, entry = self._new_runs.make(run_id, flow, facts, key, digest, now)
        self._reserve_room(run, offer)
        return PendingRun(run, entry, self._recorder.accept(entry), trigger)

    def _reserve_room(self, run: Run, offer: ReceivedOffer | None) -> None:
        """Reserve room in the queue. Raises Busy."""
        try:
            self._queue.capacity.reserve(run.payload_bytes)
        except Busy as refusal:
            raise refusal if offer is None else self._offers.refuse(offer, refusal) from None
        if offer is not None:
            self._offers.accept(offer)

    def _answer(self, pending: PendingRun, trigger: Trigger) -> AcceptedTrigger | Refused:
        try:
            prior = pending.written.result()
            if prior is not None:
                return self._repeated(trigger, prior)
        except JournalBlocked as error:
            return _unavailable(error)
        except Refused as refusal:
            return refusal
        run = pending.run
        state = State.DEAD if run.state is State.DEAD else State.ACCEPTED
        return AcceptedTrigger(run.id, state, epoch=trigger.offer.epoch if trigger.offer else None)

    async def _answer_known(
        self, trigger: Trigger, offer: ReceivedOffer
    ) -> AcceptedTrigger | Refused | None:
        """The answer to an offer that is already known, or None.

        A peer that got no answer repeats its offer. It must get the answer again, even if this node
        now refuses new triggers.
        """
        try:
            prior = await self._offers.find(offer, trigger)
            return None if prior is None else self._repeated(trigger, prior)
        except JournalBlocked as error:
            return self._offers.refuse_unread(offer, _unavailable(error))
        except Refused as refusal:
            return refusal

    def _repeated(self, trigger: Trigger, prior: ExistingRun) -> AcceptedTrigger:
        """The answer to a repeated trigger. Raises KeyReused."""
        check_same_trigger(prior.run_id, prior.digest, trigger.digest())
        epoch = trigger.offer.epoch if trigger.offer else None
        open_run = self._runs.get(prior.run_id)
        state = open_run.state if open_run is not None else prior.state
        return AcceptedTrigger(prior.run_id, state, duplicate=True, epoch=epoch)


def _with_options(accepted: Accepted, trigger: Trigger) -> Accepted:
    return msgspec.structs.replace(
        accepted,
        budget_ms=_or_unset(trigger.budget_ms),
        reply_topic=_or_unset(trigger.reply_topic),
        correlation=_or_unset(trigger.correlation),
        traceparent=_or_unset(trigger.traceparent),
    )


def _or_unset(value: Value | None) -> Value | msgspec.UnsetType:
    """Replace None by UNSET, which is not written."""
    return msgspec.UNSET if value is None else value


def _unavailable(blocked: JournalBlocked) -> JournalUnavailable:
    return JournalUnavailable(blocked.why, retry_after_s=5)
