"""Hand off: offer a run to a peer until it is there, or certainly is not."""

from __future__ import annotations

import asyncio
from typing import Union

from fractal_rm.config.model import Node
from fractal_rm.domain.budget import time_left_ms
from fractal_rm.domain.errors import CallFailed, OfferRefused
from fractal_rm.domain.placement import (
    ASK_AGAIN_AT_MOST_S,
    OFFER_TRIES,
    Again,
    Home,
    There,
    after_silence,
    after_unsent,
    has_not_taken,
)
from fractal_rm.domain.run import Offered, Placed, Run, Settled, State
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.ports import Receipt
from fractal_rm.engine.slots import Slots
from fractal_rm.engine.world import World

Answer = Union[Receipt, OfferRefused, CallFailed, None]  # None: a 2xx without a receipt


class HandOff:
    """Remembers which peers have shown themselves to be ours: they can be asked again (G4)."""

    def __init__(self, world: World, runs: OpenRuns) -> None:
        self._world = world
        self._runs = runs
        self._ours: set[str] = set()
        self._slots = Slots()
        self._tries: dict[str, int] = {}  # of runs that wait for another turn

    async def hand_off(self, run: Run, there: There) -> Settled | Again | None:
        """Offer ``run``. Returns how it ended here, or None: it came home and is to run here.

        Again: the peer may have it and does not say so. It is asked in a later turn, so that runs
        in doubt do not hold the slots of those that could go on.
        """
        tries = self._tries.pop(run.id, 0)
        silent = run.offered  # in an earlier turn, or a crash came between the offer and its end
        while True:
            tries += 1
            following = await self._once(run, there.node, tries, silent=silent)
            if isinstance(following, Settled):
                return following
            if isinstance(following, Home):
                _ = self._runs.write(run, Placed(None, following.reason))
                return None
            silent = silent or following.silent
            if silent and tries >= OFFER_TRIES:
                self._tries[run.id] = tries
                return following
            await asyncio.sleep(following.after_s)

    async def _once(
        self, run: Run, node_id: str, tries: int, *, silent: bool
    ) -> Settled | Again | Home:
        """One offer, to where nodes.conf says now that the node is."""
        node = self._world.config.nodes.get(node_id)
        if node is None:
            return self._gone(run, node_id, silent=silent)
        if not run.offered:
            left_ms = self._left_ms(run)
            if left_ms is not None and left_ms <= 0:
                return Settled(State.EXPIRED, "its time ended before it could be handed off")
            await self._runs.write(run, Offered(node.id, run.epoch + 1, self._is_ours(node)))
        answer = await self._answer(run, node)
        if isinstance(answer, Receipt):
            self._ours.add(node.id)
        return self._following(answer, run, node, tries, silent=silent)

    async def _answer(self, run: Run, node: Node) -> Answer:
        sender = self._world.config.node_id or ""
        slot = self._slots.slot(node.id, node.limit)
        if slot is not None:
            await slot.acquire()
        try:
            left_ms = self._left_ms(run)
            # A peer that may have it already is asked all the same: it knows, and looks first.
            left_ms = left_ms if left_ms is None else max(1, left_ms)
            return await self._world.peers.offer(node, run, sender, left_ms=left_ms)
        except (OfferRefused, CallFailed) as error:
            return error
        finally:
            if slot is not None:
                slot.release()

    def _following(
        self, answer: Answer, run: Run, node: Node, tries: int, *, silent: bool
    ) -> Settled | Again | Home:
        """What follows from an answer; the table is in `domain.placement`."""
        ours = run.ours or self._is_ours(node)
        fraction = self._world.random.fraction()
        if isinstance(answer, Receipt):
            return Settled(State.HANDED_OFF, f"node {node.id} has it")
        if answer is None and node.peer != "fractal":
            return Settled(State.HANDED_OFF, f"node {node.id} answered as a plain peer")
        if isinstance(answer, OfferRefused) and has_not_taken(
            answer.status, looked=answer.looked, silent=silent, ours=ours
        ):
            return Home(str(answer))
        if isinstance(answer, CallFailed) and not answer.sent and not silent:
            return after_unsent(tries, node.id, str(answer), fraction)
        why = str(answer or "it gave no receipt, so something else listens at its address")
        return after_silence(tries, node.id, why, fraction, ours=ours)

    def _gone(self, run: Run, node_id: str, *, silent: bool) -> Again | Home:
        """A node that may have the run, and that we could ask, is waited for."""
        why = f"nodes.conf no longer has node {node_id}"
        if not silent or not run.ours:
            return Home(why)
        self._world.telemetry.problem("offer_in_doubt", run=run.id, reason=why)
        return Again(ASK_AGAIN_AT_MOST_S, silent=True)

    def _left_ms(self, run: Run) -> int | None:
        return time_left_ms(run, self._world.clock.now_ms())

    def _is_ours(self, node: Node) -> bool:
        return node.peer == "fractal" or node.id in self._ours
