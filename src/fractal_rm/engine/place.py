"""Place: ask the Load Balancer where a run goes. Whatever it does, the run has a place."""

from __future__ import annotations

from fractal_rm.domain.errors import CallFailed
from fractal_rm.domain.facts import Placed
from fractal_rm.domain.placement import Here, Place, There, cannot_run, decide
from fractal_rm.domain.run import Run
from fractal_rm.domain.state import BY_SENDER, HERE, OFFERED
from fractal_rm.engine.open_runs import OpenRuns
from fractal_rm.engine.world import World


class Placer:
    """Chooses a place once for each run and keeps the reason with it."""

    def __init__(self, world: World, runs: OpenRuns) -> None:
        self._world = world
        self._runs = runs

    async def place(self, run: Run) -> Place:
        """Where ``run`` goes. A run that went on after a crash stays where it was placed."""
        if run.placement in OFFERED and run.node is not None:
            return There(run.node, run.reason)
        if run.placement is HERE:
            return Here(run.reason)
        place = await self._choose(run)
        node = place.node if isinstance(place, There) else None
        _ = self._runs.write(run, Placed(node, place.reason))
        return place

    async def _choose(self, run: Run) -> Place:
        config = self._world.config
        if run.placement is BY_SENDER:
            return Here("the sender had placed it here")
        if config.balancer is None:
            return Here("no balancer is configured")
        try:
            answer = await self._world.balancer.ask(config.balancer)
        except CallFailed as error:
            return Here(f"the balancer did not help: {error}")
        place = decide(answer, config.nodes, config.node_id)
        if isinstance(place, There):
            node = config.nodes[place.node]
            why_not = cannot_run(node.peer, run.flow.id, ours=self._world.is_ours(node))
            if why_not is not None:
                return Here(f"node {node.id} {why_not}")
        return place
