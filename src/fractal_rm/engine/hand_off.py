"""Hand off: offer a run to a peer until it is there, or certainly is not."""

from __future__ import annotations

import asyncio

from fractal_rm.config.model import Node
from fractal_rm.domain.errors import CallFailed, OfferRefused
from fractal_rm.domain.placement import Again, Home, There, after_silence, after_unsent
from fractal_rm.domain.run import Offered, Placed, Run, Settled, State
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.slots import Slots
from fractal_rm.engine.world import World


class HandOff:
    """Remembers which peers have shown themselves to be ours: they can be asked again (G4)."""

    def __init__(self, world: World, runs: OpenRuns) -> None:
        self._world = world
        self._runs = runs
        self._ours: set[str] = set()
        self._slots = Slots()

    async def hand_off(self, run: Run, there: There) -> Settled | None:
        """Offer ``run``. Returns how it ended here, or None: it came home and is to run here."""
        node = self._world.config.nodes.get(there.node)
        if node is None:
            return self._home(run, f"nodes.conf no longer has node {there.node}")
        doubted = run.offered  # a crash came between the offer and its end
        if not doubted:
            await self._runs.write(run, Offered(node.id, run.epoch + 1, self._is_ours(node)))
        return await self._until_settled(run, node, silent=doubted)

    async def _until_settled(self, run: Run, node: Node, *, silent: bool) -> Settled | None:
        sender = self._world.config.node_id or ""
        tries = 0
        while True:
            tries += 1
            try:
                async with self._slots.slot(node.id, node.limit):
                    receipt = await self._world.peers.offer(node, run, sender)
            except OfferRefused as error:
                if not silent or error.final:
                    return self._home(run, str(error))
                following = self._after_silence(run, node, tries, str(error))
            except CallFailed as error:
                silent = silent or error.sent
                following = self._after_failure(run, node, tries, error, silent=silent)
            else:
                if receipt is None:
                    return Settled(State.HANDED_OFF, f"node {node.id} answered as a plain peer")
                self._ours.add(node.id)
                return Settled(State.HANDED_OFF, f"node {node.id} has it")
            if isinstance(following, Home):
                return self._home(run, following.reason)
            await asyncio.sleep(following.after_s)

    def _after_failure(
        self, run: Run, node: Node, tries: int, error: CallFailed, *, silent: bool
    ) -> Again | Home:
        if silent:
            return self._after_silence(run, node, tries, str(error))
        return after_unsent(tries, node.id, str(error), self._world.random.fraction())

    def _after_silence(self, run: Run, node: Node, tries: int, why: str) -> Again | Home:
        ours = run.ours or self._is_ours(node)
        return after_silence(tries, node.id, why, self._world.random.fraction(), ours=ours)

    def _home(self, run: Run, reason: str) -> None:
        _ = self._runs.write(run, Placed(None, reason))

    def _is_ours(self, node: Node) -> bool:
        return node.peer == "fractal" or node.id in self._ours
