"""Hand off: offer a run to a peer until it is certain who executes it, or that nobody can say."""

from __future__ import annotations

import asyncio
from typing import Union

import msgspec
from msgspec import UNSET

from fractal_rm.config.model import Node
from fractal_rm.domain.budget import time_left_ms
from fractal_rm.domain.cause import Answered, Cause, Failure
from fractal_rm.domain.errors import CallFailed, OfferRefused
from fractal_rm.domain.facts import Offered, Placed, Settled
from fractal_rm.domain.flow import components_of
from fractal_rm.domain.placement import (
    ASK_AGAIN_AT_MOST_S,
    OFFER_TRIES,
    Again,
    Home,
    after_doubt,
    after_unsent,
    ask_again,
    cannot_run,
    has_not_taken,
    status_of,
)
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import OFFERED, Placement, State
from fractal_rm.engine.ports import Receipt
from fractal_rm.engine.recorder import Recorder
from fractal_rm.engine.slots import Slots
from fractal_rm.engine.world import World

HOLD_S = 1.0  # who waits longer gives its slot to others
Answer = Union[Receipt, OfferRefused, CallFailed, None]  # None: a 2xx without a receipt
_TOO_LATE = Settled(State.EXPIRED, "its time ended before it could be handed off", Cause.DEADLINE)


class _Asked(msgspec.Struct):
    """How often a run was offered, and which reason for the doubt about it was said last."""

    tries: int = 0
    said: str = ""


class HandOff:
    """A node of this program may be asked again (G4); any other peer is never offered a run twice.

    Which peers are ours is in nodes.conf, or shown by the receipts that they have given. Before one
    is asked again it has to show that it still is.
    """

    def __init__(self, world: World, recorder: Recorder) -> None:
        self._world = world
        self._recorder = recorder
        self._slots = Slots()
        self._asked: dict[str, _Asked] = {}  # runs in doubt that wait for another turn

    async def hand_off(self, run: Run, node_id: str) -> Settled | Again | None:
        """Offer ``run`` to a node. Returns how it ended here, or None: it is to run here after all.

        Again: the peer may have it and does not say so. It is asked in a later turn, so that runs
        in doubt do not hold the slots of those that could go on.
        """
        asked = self._asked.pop(run.id, None) or _Asked()
        # In an earlier turn, or a crash came between the offer and its end.
        silent = run.placement in OFFERED
        while True:
            asked.tries += 1
            following = await self._turn(run, node_id, asked.tries, silent=silent)
            if isinstance(following, Settled):
                return following
            if isinstance(following, Home):
                self._recorder.record(run, _placed_here(run, following))
                return None
            silent = silent or following.silent
            if silent and (asked.tries >= OFFER_TRIES or following.after_s > HOLD_S):
                self._asked[run.id] = asked
                self._say_doubt(run, asked, following.reason)
                return following
            await asyncio.sleep(following.after_s)

    def _say_doubt(self, run: Run, asked: _Asked, reason: str) -> None:
        """Say why nobody knows whether a node has a run: once, and again when that is another."""
        if reason != asked.said:
            asked.said = reason
            self._world.telemetry.problem("offer_in_doubt", run=run.id, reason=reason)

    async def _turn(
        self, run: Run, node_id: str, tries: int, *, silent: bool
    ) -> Settled | Again | Home:
        """One offer, in a slot of its node. What nodes.conf says may change while it waits."""
        following = self._unasked(run, node_id, silent=silent)
        if following is not None:
            return following
        slot = self._slots.slot(node_id, self._world.config.nodes[node_id].limit)
        if slot is None:
            return await self._once(run, node_id, tries, silent=silent)
        left_ms = None if silent else self._left_ms(run)
        if left_ms is None:
            await slot.acquire()
        else:
            try:
                await self._world.alarms.within(left_ms, slot.acquire())
            except asyncio.TimeoutError:
                return _TOO_LATE
        try:
            return await self._once(run, node_id, tries, silent=silent)
        finally:
            slot.release()

    async def _once(
        self, run: Run, node_id: str, tries: int, *, silent: bool
    ) -> Settled | Again | Home:
        """One offer, to where nodes.conf says now that the node is."""
        following = self._unasked(run, node_id, silent=silent)
        if following is not None:
            return following
        node = self._world.config.nodes[node_id]
        if silent:
            following = await self._unrecognized(run, node, tries)
            if following is not None:
                return following
        ours = silent or self._world.is_ours(node)
        left_ms = self._left_ms(run)
        if left_ms is not None and left_ms <= 0:
            if not silent:
                return _TOO_LATE
            left_ms = 1  # a node of ours that may have it is asked all the same
        if run.placement not in OFFERED:
            await self._recorder.record_durably(run, Offered(node.id, run.epoch + 1, ours))
        answer = await self._answer(run, node, left_ms, ours=ours)
        if isinstance(answer, Receipt):
            await self._world.remember_as_ours(node)
            return Settled(State.HANDED_OFF, f"node {node.id} has it", Cause.RECEIPT)
        if answer is None and node.peer != "fractal":
            return await self._plain(run, node)
        return self._following(answer, run, node, tries, silent=silent)

    def _can_be_asked(self, run: Run, node: Node) -> bool:
        """Whether a node that may have a run knows about it: it was one of ours when it was asked.

        What has become one since knows nothing of what was executed there before.
        """
        return run.placement is Placement.OFFERED and node.peer != "original"

    def _left_ms(self, run: Run) -> int | None:
        return time_left_ms(run, self._world.clock.steady_ms())

    # --- what is certain before an offer is made ------------------------------------------------

    def _unasked(self, run: Run, node_id: str, *, silent: bool) -> Settled | Again | Home | None:
        """What follows where the node is not to be offered the run at all."""
        node = self._world.config.nodes.get(node_id)
        if node is None:
            return self._gone(run, node_id, silent=silent)
        if silent and not self._can_be_asked(run, node):
            why = f"it was offered to node {node.id}, whose answer is not known"
            return self._doubt(run, Failure(Cause.PEER_SILENT, why))
        return None

    async def _unrecognized(
        self, run: Run, node: Node, tries: int
    ) -> Settled | Again | Home | None:
        """What follows where it is not certain that a node of this program would be asked again.

        Anything else, such as an original that took its place, would execute the run again.
        """
        try:
            if await self._world.peers.recognize(node):
                return None
        except CallFailed as error:
            why = f"node {node.id} may have it, and does not say what it is: {error}"
            return ask_again(tries, why, self._world.random.fraction())
        why = f"it was offered to node {node.id}, where no node of this program answers now"
        if node.peer is None:
            await self._world.forget_as_ours(node)
            return self._doubt(run, Failure(Cause.PEER_REPLACED, why))
        return _wait_for_ours(f"{why}, though nodes.conf says so")

    async def _answer(self, run: Run, node: Node, left_ms: int | None, *, ours: bool) -> Answer:
        sender = self._world.node_id
        route = node.offer if ours else node.offer_once
        try:
            return await self._world.peers.offer(node, route, run, sender, left_ms=left_ms)
        except (OfferRefused, CallFailed) as error:
            return error

    # --- what follows from an answer; the table is in `domain.placement` ------------------------

    def _following(
        self, answer: OfferRefused | CallFailed | None, run: Run, node: Node, tries: int,
        *, silent: bool,
    ) -> Settled | Again | Home:  # fmt: skip
        """From a refusal, from no answer, and from a 2xx without the receipt that must be there."""
        fraction = self._world.random.fraction()
        if isinstance(answer, OfferRefused):
            why = Failure(Cause.OFFER_REFUSED, str(answer), Answered(answer.status))
            if has_not_taken(answer.status, looked=answer.looked, silent=silent):
                return Home(why)
        elif answer is None:
            why = Failure(Cause.NO_RECEIPT, f"node {node.id} gave no receipt")
        elif answer.sent or silent:
            why = Failure(Cause.PEER_SILENT, f"node {node.id} did not answer: {answer}")
        else:
            return after_unsent(tries, node.id, str(answer), fraction)
        if self._can_be_asked(run, node):
            return ask_again(tries, why.reason, fraction)
        return self._doubt(run, why)

    async def _plain(self, run: Run, node: Node) -> Settled | Home:
        """A 2xx without a receipt: an original is there, whatever was there before."""
        await self._world.forget_as_ours(node)
        if cannot_run(node.peer, run.flow.id, ours=False) is None:
            why = f"node {node.id} answered as a plain peer"
            return Settled(State.HANDED_OFF, why, Cause.PLAIN_PEER)
        why = f"node {node.id} gave no receipt, and an original cannot run flow {run.flow.id}"
        return self._doubt(run, Failure(Cause.NO_RECEIPT, why))

    def _gone(self, run: Run, node_id: str, *, silent: bool) -> Settled | Again | Home:
        """A node that may have the run, and that we could ask, is waited for."""
        why = Failure(Cause.PEER_GONE, f"nodes.conf no longer has node {node_id}")
        if not silent:
            return Home(why)
        if run.placement is not Placement.OFFERED:
            return self._doubt(run, why)
        return _wait_for_ours(why.reason)

    def _doubt(self, run: Run, why: Failure) -> Settled | Home:
        """A peer that cannot be asked may have executed it. nodes.conf says now what follows."""
        node = self._world.config.nodes.get(run.node or "")
        left_ms = self._left_ms(run)
        following = after_doubt(
            why,
            rule=node.after_silence if node is not None else None,
            once_only=self._once_only(run),
            in_time=left_ms is None or left_ms > 0,
        )
        self._world.telemetry.problem("offer_in_doubt", run=run.id, reason=following.reason)
        return following

    def _once_only(self, run: Run) -> str | None:
        """A component of its flow that must not be called twice, as far as is known."""
        config = self._world.config
        for name in sorted(components_of(run.flow, config.flows)):
            component = config.components.get(name)
            if component is None or not component.idempotent:
                return name
        return None


def _placed_here(run: Run, home: Home) -> Placed:
    return Placed(
        run.home,
        home.why.reason,
        True if home.maybe_twice else UNSET,
        home.why.cause,
        status=status_of(home.why),
    )


def _wait_for_ours(why: str) -> Again:
    """A node of this program may have the run, and cannot be asked now."""
    return Again(ASK_AGAIN_AT_MOST_S, silent=True, reason=why)
