"""Admit: bytes come in, and a durable run (or a refusal that the sender sees) comes out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

import msgspec
from msgspec import UNSET

from fractal_rm.domain.admission import same_trigger
from fractal_rm.domain.facts import Accepted, AnyFact, Dead, Received, fault
from fractal_rm.domain.flow import Flow, flow_version
from fractal_rm.domain.journal_errors import JournalBlocked
from fractal_rm.domain.refusals import (
    Broken,
    Draining,
    JournalUnavailable,
    OwnRun,
    Refused,
    UnknownFlow,
)
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import OFFERED, State
from fractal_rm.domain.steady import Reading
from fractal_rm.domain.trigger import Arrival, Offer, Trigger, decode_trigger
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import Entry, Prior, Taken
from fractal_rm.engine.waiting_room import WaitingRoom
from fractal_rm.engine.world import World

Value = TypeVar("Value")

DEAD_LETTER_BYTES = 64 * 1024  # of a message that never became a run, this much is kept


class Entering(msgspec.Struct):
    """A trigger that has been handed to the journal; ``written`` is done when it is durable."""

    trigger: Trigger
    run: Run
    written: asyncio.Future[Prior | None]


class Admit:
    """The one way in: decode, look for room, journal, and only then answer."""

    def __init__(self, world: World, runs: OpenRuns, room: WaitingRoom) -> None:
        self._world = world
        self._runs = runs
        self._room = room
        self._versions: dict[str, tuple[Flow, str]] = {}
        self._ids = world.ids
        self.closed = False

    async def receive(self, arrival: Arrival) -> Taken:
        """Take an arrival; it is durable when this returns. Raises Refused."""
        trigger = self._decoded(arrival)
        if trigger.offer is not None:
            known = await self._known_offer(trigger, trigger.offer)
            if known is not None:
                return known
        entering = self._enter(arrival, trigger, self._world.clock.read())
        await self._all_written((entering,))
        return self._answer(entering)

    async def receive_all(self, arrivals: Sequence[Arrival]) -> list[Taken | Refused]:
        """Take what came together, in order; a refusal stands in the place of its arrival.

        What is handed to the journal in one turn shares a transaction.
        """
        now = self._world.clock.read()
        entering = [self._entered(arrival, now) for arrival in arrivals]
        written = [each for each in entering if isinstance(each, Entering)]
        if written:
            await self._all_written(written)
        return [self._answered(each) for each in entering]

    async def set_aside(self, arrival: Arrival, refusal: Refused) -> None:
        """Keep a refused message as a dead letter. Raises JournalUnavailable."""
        fact = Dead(
            code=refusal.code,
            reason=f"{refusal.title}: {refusal.reason}",
            source=arrival.source.text,
            body=arrival.body[:DEAD_LETTER_BYTES],
        )
        now = self._world.clock.read()
        new_id = self._ids.next(now.id_ms)
        entry = Entry(new_id, None, now.wall_ms, (fact,), State.DEAD, fact.reason)
        try:
            await self._world.journal.accept(entry)
        except JournalBlocked as error:
            raise _unavailable(error) from error

    def _decoded(self, arrival: Arrival) -> Trigger:
        return decode_trigger(arrival, self._world.config.bounds.max_trigger_bytes)

    def _entered(self, arrival: Arrival, now: Reading) -> Entering | Refused:
        try:
            return self._enter(arrival, self._decoded(arrival), now)
        except Refused as refusal:
            return refusal
        except Exception as error:  # noqa: BLE001 - the others that came with it are not at fault
            self._world.telemetry.problem("message_broke", error=repr(error), exc_info=error)
            return Broken(repr(error))

    def _answered(self, entering: Entering | Refused) -> Taken | Refused:
        if isinstance(entering, Refused):
            return entering
        try:
            return self._answer(entering)
        except Refused as refusal:
            return refusal

    def _enter(self, arrival: Arrival, trigger: Trigger, now: Reading) -> Entering:
        """Hand it to the journal, with its place reserved. Raises Refused."""
        if self.closed:
            raise Draining("send it again to the node when it is back")
        if self._world.journal.blocked is not None:
            raise _unavailable(self._world.journal.blocked)
        flow = self._world.config.flows.get(trigger.flow_id)
        if flow is None:
            raise UnknownFlow(f"flows.conf has no flow {trigger.flow_id!r:.60}")
        entry, run = self._entry(arrival, trigger, flow, now)
        self._room.reserve(run.payload_bytes)
        return Entering(trigger, run, self._world.journal.accept(entry))

    async def _all_written(self, together: Sequence[Entering]) -> None:
        """Wait for what was handed in during one turn: the last is done when all are.

        What is durable stands in line, whether or not anybody still waits for the answer.
        """
        told: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        together[-1].written.add_done_callback(partial(self._stand_in_line, together, told))
        await told

    def _stand_in_line(
        self,
        together: Sequence[Entering],
        told: asyncio.Future[None],
        _last: asyncio.Future[Prior | None],
    ) -> None:
        for entering in together:
            run, written = entering.run, entering.written
            if written.exception() is None and written.result() is None:
                self._stand(run)
            else:
                self._room.give_back(run.payload_bytes)
        if not told.done():
            told.set_result(None)

    def _stand(self, run: Run) -> None:
        """Put a durable run in line; one that cannot stand there is set aside."""
        self._runs.add(run)
        try:
            self._room.join(run)
        except Exception as error:  # noqa: BLE001 - those that came with it are not at fault
            dead = fault(error)
            self._world.telemetry.problem(
                "run_set_aside", run=run.id, reason=dead.reason, exc_info=error
            )
            _ = self._runs.close(run, dead)  # nobody waits for it yet
            self._room.give_back(run.payload_bytes)

    def _answer(self, entering: Entering) -> Taken:
        """What the journal has said. Raises JournalUnavailable, KeyReused."""
        try:
            prior = entering.written.result()
        except JournalBlocked as error:
            raise _unavailable(error) from error
        if prior is not None:
            return self._repeated(entering.trigger, prior)
        offer = entering.trigger.offer
        state = State.DEAD if entering.run.state is State.DEAD else State.ACCEPTED
        return Taken(entering.run.id, state, epoch=offer.epoch if offer else None)

    def _entry(
        self, arrival: Arrival, trigger: Trigger, flow: Flow, now: Reading
    ) -> tuple[Entry, Run]:
        now_ms, offer = now.wall_ms, trigger.offer
        new_id = offer.run if offer else self._ids.next(now.id_ms)
        run = Run(new_id, flow, now_ms)
        accepted = Accepted(
            flow=flow.id,
            version=self._version(flow),
            payload=msgspec.Raw(trigger.payload),
            source="peer" if offer else arrival.source.text,
            placed=trigger.placed,
            key=trigger.key,
            ahead_ms=now.ahead_ms or UNSET,
            node=self._world.node_id,
        )
        if trigger.says_more:
            accepted = _with_more(accepted, trigger)
        facts: tuple[AnyFact, ...] = (accepted,)
        if offer:
            facts += (Received(offer.sender, offer.epoch),)
        for fact in facts:
            run.apply(fact)
        key = _offer_key(offer) if offer else trigger.known_as
        digest = trigger.digest() if key is not None else ""
        until_ms = now.retention_ms + self._world.config.bounds.dedup_window_s * 1000
        state, why, asked_ms = run.state, run.reason, now.retention_ms
        return Entry(new_id, flow, now_ms, facts, state, why, key, digest, until_ms, asked_ms), run

    async def _known_offer(self, trigger: Trigger, offer: Offer) -> Taken | None:
        """A peer that had no answer asks again: what it may learn comes before any refusal (G4).

        Raises OwnRun where we would hand a run to ourselves: nodes.conf names this node.
        """
        own = self._runs.get(offer.run)
        if own is not None and own.placement in OFFERED:
            raise OwnRun(f"this node itself has offered run {offer.run}")
        try:
            retention_ms = self._world.clock.read().retention_ms
            prior = await self._world.journal.find(_offer_key(offer), retention_ms)
        except JournalBlocked as error:
            raise _unavailable(error) from error
        return None if prior is None else self._repeated(trigger, prior)

    def _repeated(self, trigger: Trigger, prior: Prior) -> Taken:
        same_trigger(prior.run_id, prior.digest, trigger.digest())
        epoch = trigger.offer.epoch if trigger.offer else None
        open_run = self._runs.get(prior.run_id)
        state = open_run.state if open_run is not None else prior.state
        return Taken(prior.run_id, state, duplicate=True, epoch=epoch)

    def _version(self, flow: Flow) -> str:
        known = self._versions.get(flow.id)
        if known is None or known[0] is not flow:
            known = self._versions[flow.id] = flow, flow_version(flow)
        return known[1]


def _with_more(accepted: Accepted, trigger: Trigger) -> Accepted:
    return msgspec.structs.replace(
        accepted,
        budget_ms=_or_unset(trigger.budget_ms),
        reply_topic=_or_unset(trigger.reply_topic),
        correlation=_or_unset(trigger.correlation),
        traceparent=_or_unset(trigger.traceparent),
    )


def _or_unset(value: Value | None) -> Value | msgspec.UnsetType:
    """What nobody said is not written down."""
    return msgspec.UNSET if value is None else value


def _unavailable(blocked: JournalBlocked) -> JournalUnavailable:
    return JournalUnavailable(blocked.why, retry_after_s=5)


def _offer_key(offer: Offer) -> str:
    """Under this key an offer is remembered; a sender's own ids cannot begin with a NUL."""
    return f"\0offer:{offer.run}:{offer.epoch}"
